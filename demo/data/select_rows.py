"""How the rows beside this file were chosen: `python select_rows.py FOLDER` with
FOLDER/{products,restaurants,movies}/*.jsonl.

The full sets hold 400 + 400 sentences each. Restaurant sentences become two tasks, *food* and *service*, by the words
they use; sentences with words of both or of neither are left out. Rows are ordered by the hash of their id, so the
choice is the same on every machine and nobody picked by hand.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path

TRAIN, TEST = 130, 80
FOOD = re.compile(
    r"\b(food|tast\w*|delicious|flavou?r\w*|burger\w*|pizza\w*|chicken|steak|sushi|salad\w*|fries|soup|bread|dish\w*|menu|sauce|meat|beef|"
    r"fish|shrimp|rice|bacon|egg\w*|cook\w*|dessert|breakfast|lunch|dinner|meal\w*|sandwich\w*|taco\w*|beer|wine|coffee|tea|drink\w*|pho|"
    r"potato\w*|cream|fresh|eat\w*|ate|buffet|bland|dry|pork|crust|fried|portion\w*)\b",
    re.IGNORECASE,
)
SERVICE = re.compile(
    r"\b(servic\w*|server\w*|waite?r\w*|waitress\w*|staff|friendly|rude|wait\w*|slow|manager|owner|minutes|place|atmosphere|back|prices?|"
    r"ambian\w*|experience|clean|dirty|decor|busy|seated|attentive|attitude|customer\w*|vegas)\b",
    re.IGNORECASE,
)
Row = dict[str, str]


def rows_of(folder: Path, part: str) -> list[Row]:
    lines = (folder / f"{part}.jsonl").read_text("utf-8").split("\n")  # not splitlines: some sentences hold U+0085
    rows: list[Row] = [json.loads(line) for line in lines if line]
    return sorted(rows, key=lambda row: hashlib.sha256(row["id"].encode()).digest())


def write(name: str, train: list[Row], test: list[Row]) -> None:
    folder = Path(__file__).parent / name
    folder.mkdir(exist_ok=True)
    for part, rows in (("train", train[:TRAIN]), ("test", test[:TEST])):
        (folder / f"{part}.jsonl").write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8"
        )
    print(name, min(len(train), TRAIN), min(len(test), TEST))


def main(source: Path) -> None:
    write("products", rows_of(source / "products", "train"), rows_of(source / "products", "test"))
    restaurants = rows_of(source / "restaurants", "train") + rows_of(source / "restaurants", "test")
    for name, own, other in (("food", FOOD, SERVICE), ("service", SERVICE, FOOD)):
        rows = [row for row in restaurants if own.search(row["question"]) and not other.search(row["question"])]
        write(name, rows, rows[TRAIN:])
    write("movies", rows_of(source / "movies", "train"), rows_of(source / "movies", "test"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
