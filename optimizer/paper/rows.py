"""From a catalogue entry to a task with its examples: from a local folder, or from the public original.

Both end in the same place: a folder with ``task.json``, ``train.jsonl`` and ``test.jsonl`` that ``optimizer.tasks``
reads. The catalogue's prompt and metric go before those of the folder; a folder of a task that the catalogue does not
know speaks for itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from optimizer.draws import stream
from optimizer.errors import DataError
from optimizer.paper.catalogue import Origin, PaperTask
from optimizer.paper.mapping import examples_of
from optimizer.records import Example, JudgeKind, SearchTask, TaskRole
from optimizer.tasks.folders import TaskSettings, load_task

MOST_ROWS = 500
"""Rows per split that are kept of a public data set: what the published protocol uses at most."""
MOST_READ = 50_000
TEST_ORDER = 42
"""The test rows are drawn once, the same for every method and seed; seeds vary the search and its training rows."""
_KINDS: Mapping[str, JudgeKind] = {
    "macro_f1": "macro_f1",
    "exact_match": "exact",
    "number": "number",
    "math": "math",
    "judge": "rubric",
    "f1": "f1",
    "contains": "contains",
}
Fetch = Callable[[Origin, str], Iterable[Mapping[str, Any]]]
"""Gives the rows of one split of a public data set."""


def load(
    task: PaperTask,
    *,
    data: Path | None,
    cache: Path,
    train: int,
    test: int,
    fewer: bool = False,
    fetch: Fetch | None = None,
) -> SearchTask:
    """The task with ``train`` rows to learn from and ``test`` rows to be scored on, whatever its role.

    From ``data`` when that is given, else from the public original, kept in ``cache``. Raises ``DataError`` when there
    are fewer rows than asked, unless ``fewer`` allows it.
    """
    folder = local_folder(task, data) if data is not None else public_folder(task, cache, fetch or from_library)
    loaded = load_task(folder, "source", settings=_settings(task, folder))
    for split, asked, there in (("train", train, len(loaded.train)), ("test", test, len(loaded.holdout))):
        if asked > there and not fewer:
            raise DataError(
                f"The task {task.name} has {there} usable {split} rows and {asked} were asked: set `{split}_rows: "
                f"{there}`, or take what there is with `metaspo paper run --fewer`."
            )
    role: TaskRole = "unseen" if task.role == "unseen" else "source"
    kept = _some(loaded.train, train, "paper train", task.name)
    chosen = {example.id for example in kept}
    return replace(
        loaded,
        name=task.name,
        domain=task.domain,
        role=role,
        reflect=tuple(example for example in loaded.reflect if example.id in chosen),
        select=tuple(example for example in loaded.select if example.id in chosen),
        holdout=_some(loaded.holdout, test, "paper test", task.name),
    )


def local_folder(task: PaperTask, data: Path) -> Path:
    """The task's folder under ``data``. Raises ``DataError`` that says where it was looked for."""
    if not data.is_dir():
        raise DataError(f"The data folder {data} is missing: give one with `metaspo paper run --data DIR`.")
    name = task.rows_of or task.name
    places = (data / task.domain / name, data / name)
    for place in places:
        if (place / "task.json").is_file():
            return place
    found = sorted(data.glob(f"*/{name}/task.json"))
    if found:
        return found[0].parent
    raise DataError(
        f"There is no folder of the task {task.name} under {data} (looked for {places[0]} and {places[1]}): put its "
        "task.json, train.jsonl and test.jsonl there, or leave the task out."
    )


def public_folder(task: PaperTask, cache: Path, fetch: Fetch) -> Path:
    """The task's public rows as a local folder, fetched once. Raises ``DataError``."""
    if task.dataset is None:
        raise DataError(
            f"The task {task.name} names no public data set: give a folder that holds it with "
            "`metaspo paper run --data DIR`."
        )
    folder = cache / task.domain / task.name
    if (folder / "task.json").is_file():
        return folder
    origin = task.dataset
    test = list(examples_of(islice(fetch(origin, origin.test), MOST_READ), origin, "test"))
    asked = {row["question"] for row in test}
    train = [
        row
        for row in examples_of(islice(fetch(origin, origin.train), MOST_READ), origin, "train")
        if row["question"] not in asked
    ]
    if not (train and test):
        raise DataError(
            f"The data set {origin.id} gave no row for the task {task.name}: its fields have changed. Mend "
            f"`dataset` in the task's file, or give a folder with `metaspo paper run --data DIR`."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in (("train", train), ("test", test)):
        rows.sort(key=lambda row: hashlib.sha256(row["question"].encode()).digest())
        lines = b"".join(msgspec.json.encode(row) + b"\n" for row in rows[:MOST_ROWS])
        (folder / f"{split}.jsonl").write_bytes(lines)
    described = {
        "task": task.name,
        "domain": task.domain,
        "role": task.role,
        "metric": task.metric,
        "labels": task.labels or None,
        "initial_prompt": task.initial_prompt,
        "origin": msgspec.to_builtins(origin),
        "licence": task.licence,
    }
    (folder / "task.json").write_bytes(msgspec.json.format(msgspec.json.encode(described)))
    return folder


def from_library(origin: Origin, split: str) -> Iterator[Mapping[str, Any]]:
    """The rows of a split through the ``datasets`` library, streamed. Raises ``DataError``."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DataError(
            "The public data sets need the datasets library: run `pip install 'metaspo-gateway[datasets]'`, or give a "
            "folder with `metaspo paper run --data DIR`."
        ) from error
    try:
        more = {"data_dir": origin.data_dir} if origin.data_dir else {}
        rows = load_dataset(origin.id, origin.config, split=split, streaming=True, **more)
        names = rows.features[origin.class_names].names if origin.class_names else []
        for row in rows:
            yield {**row, origin.class_names: names[row[origin.class_names]]} if names else row
    except Exception as error:  # the library raises whatever its many sources raise
        raise DataError(
            f"The data set {origin.id} (split {split}) could not be read: {str(error)[:200].splitlines()[0]}. Check "
            "the network and the id, or give a folder with `metaspo paper run --data DIR`."
        ) from error


def _settings(task: PaperTask, folder: Path) -> TaskSettings:
    """What the catalogue says on top of the folder's own ``task.json``."""
    if not task.prompt:
        return TaskSettings(path=str(folder))
    kind = _KINDS.get(task.metric, "choice" if task.labels else "exact")
    return TaskSettings(
        path=str(folder),
        user_prompt=task.initial_prompt,
        judge={"kind": kind, "labels": list(task.labels), **task.judge},
    )


def _some(rows: tuple[Example, ...], most: int, *name: str) -> tuple[Example, ...]:
    drawn = sorted(rows, key=lambda example: example.id)
    stream(TEST_ORDER, *name).shuffle(drawn)
    return tuple(drawn[:most])
