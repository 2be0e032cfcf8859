"""Put the tables and figures of docs/results/raw.jsonl into docs/results.md: ``python benchmarks/paper_page.py``.

The prose of the page is written by hand; what stands between the marks is made here and nowhere else. A test fails when
the page is out of date.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from optimizer.paper.page import all_figures, all_tables, markdown, prompts_page  # noqa: E402
from optimizer.paper.raw import read_prompts, read_raw  # noqa: E402

DOCS = ROOT / "docs"
BEGIN, END = "<!-- begin: made by benchmarks/paper_page.py -->", "<!-- end -->"


def made() -> tuple[str, dict[str, str]]:
    """The page's made part, and the figures by file name."""
    rows = read_raw(DOCS / "results" / "raw.jsonl")
    drawn = {f"paper_{name}.svg": text for name, text in all_figures(rows).items()}
    made = all_tables(rows, as_published=True)
    parts = [markdown(table) for found in made.values() for table in found]
    parts += [f"![{name.removesuffix('.svg').replace('_', ' ')}](figures/{name})" for name in drawn]
    parts.append(prompts_page(read_prompts(DOCS / "results" / "prompts.jsonl"), rows))
    return "\n\n".join(parts), drawn


def page(text: str, part: str) -> str:
    """``text`` with ``part`` between the marks."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{part}\n\n{END}{rest.partition(END)[2]}"


def main() -> None:
    part, drawn = made()
    path = DOCS / "results.md"
    path.write_text(page(path.read_text("utf-8"), part), "utf-8")
    for name, text in drawn.items():
        (DOCS / "figures" / name).write_text(text, "utf-8")
    print(f"written: {path.name} and {', '.join(drawn)}")


if __name__ == "__main__":
    main()
