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
from optimizer.records import Example, SearchTask, TaskRole
from optimizer.tasks.folders import TaskSettings, load_task

MOST_ROWS = 500
"""Rows per split that are kept of a public data set: what the published protocol uses at most."""
MOST_READ = 50_000
TEST_ORDER = 42
"""The test rows are drawn once, the same for every method and seed; seeds vary the search and its training rows."""
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
                f"{there}`, take what there is in every task with `fewer: true` (`metaspo paper run --fewer`), or "
                f"leave the task out with `skip: [{task.name}]`."
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
    names = dict.fromkeys((task.name, task.rows_of or task.name))
    places = [folder / name for name in names for folder in (data / task.domain, data)]
    for name in names:
        for place in (data / task.domain / name, data / name, *sorted(data.glob(f"*/{name}"))):
            if (place / "task.json").is_file():
                return place
    raise DataError(
        f"There is no folder of the task {task.name} under {data} (looked for {' and '.join(map(str, places))}): put "
        f"its task.json, train.jsonl and test.jsonl there, or leave the task out with `skip: [{task.name}]` in the "
        "protocol's file."
    )


def public_folder(task: PaperTask, cache: Path, fetch: Fetch) -> Path:
    """The task's public rows as a local folder, fetched once. Raises ``DataError``."""
    if task.dataset is None:
        raise DataError(
            f"The task {task.name} names no public data set: give a folder that holds it with `metaspo paper run "
            f"--data DIR`, or leave the task out with `skip: [{task.name}]`."
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
    reader, arguments = how_to_load(origin, split)
    try:
        rows = load_dataset(reader, split=split, streaming=True, **arguments)
        names = rows.features[origin.class_names].names if origin.class_names else []
        for row in rows:
            yield {**row, origin.class_names: names[row[origin.class_names]]} if names else row
    except Exception as error:  # the library raises whatever its many sources raise
        why = (str(error) or type(error).__name__)[:200].splitlines()[0]
        mend = "Check the network and the id"
        if "scripts are no longer supported" in why or "trust_remote_code" in why:
            mend = (
                "It is made by a script of its own, which the library does not run: name its plain files under `files`"
            )
        raise DataError(
            f"The data set {origin.id} (split {split}) could not be read: {why}. {mend} (`dataset` in the task's "
            "file), or give a folder with `metaspo paper run --data DIR`."
        ) from error


def how_to_load(origin: Origin, split: str) -> tuple[str, dict[str, Any]]:
    """The first argument of ``datasets.load_dataset`` for a split and the further ones: a reader of plain files where
    the origin names files, else the data set by its id."""
    if origin.files:
        told = origin.files[split]
        places = [_place(origin, path) for path in ([told] if isinstance(told, str) else told)]
        return origin.format, {"data_files": {split: places}, **origin.options}
    told_more = {"name": origin.config, "data_dir": origin.data_dir, "revision": origin.revision}
    return origin.id, {name: value for name, value in told_more.items() if value} | origin.options


def _place(origin: Origin, path: str) -> str:
    """The address of a file: as it is told, in the local folder ``id``, or in the data set of the hub."""
    if "://" in path:
        return path
    if Path(origin.id).is_dir():
        return str(Path(origin.id) / path)
    return f"hf://datasets/{origin.id}{f'@{origin.revision}' if origin.revision else ''}/{path}"


def _settings(task: PaperTask, folder: Path) -> TaskSettings:
    """What the catalogue says on top of the folder's own ``task.json``."""
    if not task.prompt:
        return TaskSettings(path=str(folder))
    return TaskSettings(
        path=str(folder),
        user_prompt=task.initial_prompt,
        judge={"kind": task.judged_by.kind, "labels": list(task.labels), **task.judge},
    )


def _some(rows: tuple[Example, ...], most: int, *name: str) -> tuple[Example, ...]:
    drawn = sorted(rows, key=lambda example: example.id)
    stream(TEST_ORDER, *name).shuffle(drawn)
    return tuple(drawn[:most])
