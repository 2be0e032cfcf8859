"""The tasks: one YAML file each, in ``tasks/`` beside this file and in any folder that a user names.

A file says what the task asks, how it is scored, and which public data set its rows come from with the exact mapping.
``docs/paper.md`` shows how to add one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from optimizer.errors import DataError
from optimizer.judges.registry import metric_file, metrics, spec_of
from optimizer.names import nearest
from optimizer.records import SLOT, JudgeSpec

BUILT_IN = Path(__file__).parent / "tasks"
PAPER_DOMAINS = ("medical", "reviews", "reasoning", "safety", "grounding")
Quirk = Literal["", "option_letter", "first_integer", "bbh_option", "bbh_text", "union_f1", "squad_whole"]


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the rows come from: a data set of the ``datasets`` library and how one of its rows becomes one of ours.

    ``id`` is a data set of the hub whose files are plain (the library runs no data set's own script any more), or a
    local folder of such files. ``files`` names them by split where the hub does not know which is which, or where they
    lie elsewhere: paths inside the data set, at ``revision``, or whole addresses. ``format`` says what the files are,
    ``options`` goes to the library's reader of that format, and ``checked`` says how all this is known.

    ``question`` is a template over the row's fields (``{passage}``, ``{choices[0]}``). ``answer`` names the field of
    the reference (a dotted path reaches inside), or is a template when it holds braces; ``map`` translates its values;
    ``pick`` is a regular expression whose last match is the answer. A list gives several references, any of which is
    right. ``solution`` is a field or template of a worked answer, for tasks that a judge model scores: a further right
    answer, which the judge is not shown as its reference.

    ``where`` keeps rows whose fields have one of the given values, ``contains`` rows that hold one of the words.
    When ``test`` names the same split as ``train`` the rows are shared out by the hash of the question. ``pairs`` turns
    one row into several (field -> answer), each with its field's text as ``{text}``. ``class_names`` names a field
    whose numbers stand for the names of its classes.
    """

    id: str
    train: str
    test: str
    question: str
    answer: str = ""
    config: str | None = None
    data_dir: str | None = None
    class_names: str = ""
    format: Literal["", "csv", "json", "parquet"] = ""
    files: dict[str, str | list[str]] = {}
    revision: str | None = None
    options: dict[str, Any] = {}
    checked: str = ""
    solution: str = ""
    map: dict[str, str] = {}
    pick: str = ""
    where: dict[str, list[str]] = {}
    contains: dict[str, list[str]] = {}
    pairs: dict[str, str] = {}


class PaperTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One task as its file says. The initial user prompt is ``prompt`` followed by ``suffix``, which holds the slot."""

    name: str
    domain: str
    role: Literal["source", "unseen", "extra"]
    metric: str
    prompt: str
    suffix: str
    licence: str
    labels: list[str] = []
    judge: dict[str, Any] = {}
    dataset: Origin | None = None
    published: Quirk = ""
    rows_of: str = ""
    """The task whose local folder holds the rows (a ``_judged`` variant asks the same questions)."""
    notes: str = ""

    @property
    def judged_by(self) -> JudgeSpec:
        """How an answer is scored. Raises ``DataError`` for a metric or a ``judge`` that does not exist."""
        return spec_of(self.metric, self.labels, self.judge)

    @property
    def initial_prompt(self) -> str:
        """The user prompt with its question slot."""
        return f"{self.prompt.strip()}\n\n{self.suffix.strip()}"


def catalogue(extra: Path | None = None) -> dict[str, PaperTask]:
    """All tasks by name; those of the folder ``extra`` come on top and may replace built-in ones. Raises
    ``DataError``."""
    folders = [BUILT_IN, *([extra] if extra else [])]
    tasks: dict[str, PaperTask] = {}
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"{folder} is no folder: `tasks` names a folder of task files (*.yaml).")
        for path in sorted(folder.rglob("*.yaml")):
            task = read_task_file(path)
            tasks[task.name] = task
    return tasks


def read_task_file(path: Path) -> PaperTask:
    """One task file. Raises ``DataError`` that names the file and what to mend."""
    try:
        task = msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), PaperTask)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: no task file ({str(error).splitlines()[0]}). Write it as YAML.") from error
    except msgspec.ValidationError as error:
        raise DataError(f"{path}: no task file ({error}).{_mended(str(error))}") from error
    _check_metric(task, path)
    _check_files(task, path)
    if task.suffix.count(SLOT) != 1 or SLOT in task.prompt:
        raise DataError(f"{path}: `suffix` must hold the slot {SLOT} exactly once, and `prompt` not at all.")
    return task


def _mended(error: str) -> str:
    """What to do about a field that does not fit: the nearest name, or what it may say."""
    if "unknown field" in error:
        place = Origin if "$.dataset" in error else PaperTask
        return nearest(error.split("`")[1], place.__struct_fields__)
    if "missing required field" in error:
        return f" Add it: {error.split('`')[1]}."
    if "$.role" in error:
        return " A role is source, unseen or extra."
    if "$.dataset.format" in error:
        return " A format is csv, json or parquet."
    return " docs/paper.md, Add a task, shows a whole file."


def _check_metric(task: PaperTask, path: Path) -> None:
    """See to it that the metric exists; one of a user's own is ``<metric>.py`` beside the task file, and is run."""
    own = path.parent / f"{task.metric}.py"
    try:
        if task.metric.isidentifier() and own.is_file():
            metric_file(own, task.metric)
        _ = task.judged_by
    except DataError as error:
        hint = ""
        if task.metric not in metrics():
            hint = f" A metric of your own is a class in {own.name} beside this file (docs/paper.md, Add a task)."
        raise DataError(f"{path}: {error}{hint}") from error


def _check_files(task: PaperTask, path: Path) -> None:
    origin = task.dataset
    if origin is None or not origin.files:
        return
    if not origin.format:
        raise DataError(f"{path}: `dataset` names files and not what they are: add `format: csv`, json or parquet.")
    for split in (origin.train, origin.test):
        if split not in origin.files:
            raise DataError(
                f"{path}: `dataset: files` has no entry for the split {split!r}: add one, or let `train` and `test` "
                f"name one of {', '.join(origin.files)}."
            )


def pick(tasks: Mapping[str, PaperTask], names: Iterable[str]) -> list[PaperTask]:
    """The tasks called ``names``. Raises ``DataError`` that lists the nearest names for one that is not known."""
    chosen = []
    for name in names:
        if name not in tasks:
            raise DataError(f"The task {name!r} is not in the catalogue.{nearest(name, tasks)}")
        chosen.append(tasks[name])
    return chosen


def domain_tasks(tasks: Mapping[str, PaperTask], domain: str) -> list[PaperTask]:
    """The source and unseen tasks of a domain, in the order of their files. Raises ``DataError`` for an unknown
    domain."""
    found = [task for task in tasks.values() if task.domain == domain and task.role != "extra"]
    if not found:
        domains = {task.domain for task in tasks.values()}
        raise DataError(f"The domain {domain!r} is not in the catalogue.{nearest(domain, sorted(domains))}")
    return found
