"""Tasks from folders: ``task.json`` says what the task is and how it is scored, ``train.jsonl`` and ``test.jsonl``
hold rows.

Train splits 40/60 into reflect and select by the hash of each example's near-duplicate cluster; test is the holdout
of a source task and the score of an unseen one. A train row that nearly equals a test row is left out and counted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from optimizer.errors import DataError
from optimizer.judges.registry import spec_of
from optimizer.records import SLOT, Example, JudgeSpec, SearchTask, TaskRole
from optimizer.tasks.clusters import clusters_of, fraction
from optimizer.tasks.rows import read_rows

REFLECT_OF_TRAIN = 0.4
REFLECT_OF_TRAFFIC, SELECT_OF_TRAFFIC = 0.2, 0.3
_LARGEST_TASK_FILE = 1024 * 1024


class _TaskFile(msgspec.Struct):
    """``task.json`` as written. Keys about origin and licence are for people and are not read."""

    task: str
    initial_prompt: str
    domain: str = ""
    role: Literal["source", "unseen", "extra"] = "source"
    metric: str = "accuracy"  # one of the labels, or, without labels, equal to a reference
    labels: list[str] | None = None
    judge: dict[str, Any] | None = None
    lenient: bool = False
    editable_user_prompt: bool = True
    robustness_prompts: list[str] = []


class TaskSettings(msgspec.Struct, forbid_unknown_fields=True):
    """One entry under ``tasks:`` of a search file. What it says goes before what ``task.json`` says."""

    path: str
    role: TaskRole | None = None
    user_prompt: str | None = None
    lenient: bool | None = None
    editable_user_prompt: bool | None = None
    robustness_prompts: list[str] | None = None
    judge: dict[str, Any] | None = None
    train: int | None = None
    test: int | None = None


def load_task(path: Path, role: TaskRole | None = None, *, settings: TaskSettings | None = None) -> SearchTask:
    """The task in folder ``path``. Raises ``DataError`` that names the file, and the line where there is one."""
    asked = settings or TaskSettings(path=str(path))
    told = _task_file(path / "task.json")
    where = str(path / "task.json")
    judge = _judge(told, asked, where)
    prompts = [asked.user_prompt or told.initial_prompt, *(asked.robustness_prompts or told.robustness_prompts)]
    for prompt in prompts:
        check_user_prompt(prompt, where)
    role = role or asked.role or ("unseen" if told.role == "unseen" else "source")
    train = read_rows(path / "train.jsonl", judge, most=asked.train) if role == "source" else []
    test = read_rows(path / "test.jsonl", judge, most=asked.test)
    if not test:
        raise DataError(
            f"{path / 'test.jsonl'}: there is no row. A task is scored on test.jsonl; give it at least 50 rows."
        )
    twice = {example.id for example in train} & {example.id for example in test}
    if twice:
        shown = ", ".join(sorted(twice)[:3])
        raise DataError(f"{path}: train.jsonl and test.jsonl share ids ({shown}). A row may stand in one of them only.")
    train, test, notes = _clustered(train, test)
    reflect, select = _halves(train)
    if role == "source" and not (reflect and select):
        raise DataError(
            f"{path / 'train.jsonl'}: {len(train)} usable rows are too few to split into reflect and select. "
            "Give the task at least 50 rows, or use it with role: unseen."
        )
    editable = told.editable_user_prompt if asked.editable_user_prompt is None else asked.editable_user_prompt
    return SearchTask(
        name=told.task,
        domain=told.domain,
        role=role,
        user_prompt=prompts[0],
        editable_user_prompt=editable,
        robustness_prompts=tuple(prompts[1:]),
        judge=judge,
        reflect=reflect,
        select=select,
        holdout=tuple(test),
        notes=notes,
    )


def check_user_prompt(prompt: str, where: str) -> None:
    """Raise ``DataError`` unless ``prompt`` says something and holds the question's slot exactly once."""
    if not prompt.strip():
        raise DataError(f"{where}: the user prompt is empty. Say what is asked, with {SLOT} for the question.")
    if (count := prompt.count(SLOT)) != 1:
        raise DataError(
            f"{where}: the user prompt must hold the slot {SLOT} exactly once, it does {count} times: {prompt[:60]!r}."
        )


def split_traffic(
    examples: Sequence[Example], *, used: Collection[str] = ()
) -> tuple[tuple[Example, ...], tuple[Example, ...], tuple[Example, ...]]:
    """Split samples of traffic 20/30/50 into (reflect, select, holdout) by the hash of their cluster.

    Examples without a cluster get one. ``used`` names clusters that have confirmed a run before: they confirm no
    other and go to reflect.
    """
    named = _named(list(examples))
    parts: tuple[list[Example], list[Example], list[Example]] = ([], [], [])
    for example in named:
        place = fraction(example.cluster)
        part = 0 if place < REFLECT_OF_TRAFFIC else 1 if place < REFLECT_OF_TRAFFIC + SELECT_OF_TRAFFIC else 2
        parts[0 if example.cluster in used else part].append(example)
    return tuple(parts[0]), tuple(parts[1]), tuple(parts[2])


def _task_file(path: Path) -> _TaskFile:
    try:
        raw = path.read_bytes() if path.stat().st_size <= _LARGEST_TASK_FILE else None
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}). It belongs in every task folder."
        ) from error
    if raw is None:
        raise DataError(f"{path}: larger than 1 MiB; this is no task description.")
    try:
        told = msgspec.json.decode(raw.decode("utf-8-sig"), type=_TaskFile)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start + 1} is not UTF-8. Save the file as UTF-8.") from error
    except msgspec.DecodeError as error:
        hint = " A role is source, unseen or extra." if "$.role" in str(error) else ""
        if "missing required field" in str(error):
            hint = " It needs `task` (a name) and `initial_prompt` (with the slot {question}) at least."
        raise DataError(f"{path}: {error}.{hint}") from error
    if not told.task.strip():
        raise DataError(f"{path}: `task` (the task's name) is empty. Give the task a name.")
    return told


def _judge(told: _TaskFile, asked: TaskSettings, where: str) -> JudgeSpec:
    """The judge that metric and labels imply, with what `judge` says on top."""
    labels = tuple(told.labels or ())
    if len({label.casefold() for label in labels}) < len(labels) or not all(label.strip() for label in labels):
        raise DataError(f"{where}: `labels` holds an empty label or one label twice. Name each answer once.")
    try:
        judge = spec_of(told.metric, labels, {**(told.judge or {}), **(asked.judge or {})})
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    lenient = asked.lenient if asked.lenient is not None else judge.lenient or told.lenient
    return msgspec.structs.replace(judge, lenient=lenient)


def _clustered(train: list[Example], test: list[Example]) -> tuple[list[Example], list[Example], tuple[str, ...]]:
    """Both with their clusters; train rows that nearly equal a test row are left out, with a note that says how
    many."""
    named = _named([*train, *test])
    test = named[len(train) :]
    asked = {example.cluster for example in test}
    kept = [example for example in named[: len(train)] if example.cluster not in asked]
    left_out = len(train) - len(kept)
    notes = (f"{left_out} of {len(train)} train rows nearly equal a test row and were left out.",) if left_out else ()
    return kept, test, notes


def _named(examples: list[Example]) -> list[Example]:
    """The examples with a cluster each; one that has a cluster already keeps it."""
    if all(example.cluster for example in examples):
        return examples
    names = clusters_of([example.question for example in examples])
    return [
        example if example.cluster else msgspec.structs.replace(example, cluster=name)
        for example, name in zip(examples, names, strict=True)
    ]


def _halves(train: Sequence[Example]) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    reflect = tuple(example for example in train if fraction(example.cluster) < REFLECT_OF_TRAIN)
    select = tuple(example for example in train if fraction(example.cluster) >= REFLECT_OF_TRAIN)
    return reflect, select
