"""Every judge by the name of its metric: one class, registered where it is written.

    @metric("roman")
    class Roman: ...

The modules of this folder are looked through once, when the first judge is asked for. A class elsewhere is registered
when its module is imported: ``metric_file`` imports one that lies beside a task file.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from optimizer.errors import DataError
from optimizer.judges.judge import Judge, ModelJudge
from optimizer.names import nearest
from optimizer.records import JudgeSpec

Maker = Callable[[JudgeSpec], "Judge | ModelJudge"]
_Class = TypeVar("_Class", bound=Maker)

OTHER_NAMES: Mapping[str, str] = {"exact_match": "exact", "judge": "rubric"}
"""Metrics that are called otherwise in task files than the kind that scores them."""
BY_LABELS = "accuracy"
"""The metric that is ``choice`` where the task has labels, else ``exact``."""
_NEED_LABELS = ("choice", "macro_f1")
_makers: dict[str, Maker] = {}
_built_in: set[str] = set()
_encode = msgspec.json.Encoder(order="deterministic").encode


def metric(*names: str) -> Callable[[_Class], _Class]:
    """Register a class under each of ``names``. It is made from a ``JudgeSpec`` and has ``verdict(example, text)``.

    Raises ``DataError`` for a name that the product's own judges have.
    """

    def register(made: _Class) -> _Class:
        for name in names:
            if name in _built_in or name in (*OTHER_NAMES, BY_LABELS):
                raise DataError(f"The metric name {name!r} is taken: give your class another one.")
            _makers[name] = made
        _built.cache_clear()
        return made

    return register


def judge_for(spec: JudgeSpec) -> Judge | ModelJudge:
    """The judge that ``spec`` describes. Raises ``DataError`` for a description that no judge can follow."""
    return _built(_encode(spec))


@lru_cache(maxsize=256)
def _built(encoded: bytes) -> Judge | ModelJudge:
    spec = msgspec.json.decode(encoded, type=JudgeSpec)
    _check_labels(spec)
    return maker(spec.kind)(spec)


def _check_labels(spec: JudgeSpec) -> None:
    if spec.kind in _NEED_LABELS and not spec.labels:
        raise DataError(f"A {spec.kind} judge needs `labels`, the list of allowed answers.")


@cache
def _own() -> None:
    import optimizer.judges as folder

    before = set(_makers)
    for module in pkgutil.iter_modules(folder.__path__):
        importlib.import_module(f"{folder.__name__}.{module.name}")
    _built_in.update(set(_makers) - before)


def kinds() -> tuple[str, ...]:
    """The names of all judges, those of the product first."""
    _own()
    return tuple(sorted(_makers, key=lambda name: (name not in _built_in, name)))


def metrics() -> tuple[str, ...]:
    """What ``metric`` may say in a task file."""
    return (BY_LABELS, *OTHER_NAMES, *(kind for kind in kinds() if kind not in OTHER_NAMES.values()))


def maker(kind: str) -> Maker:
    """The class of a kind. Raises ``DataError`` that names the nearest ones."""
    _own()
    if kind not in _makers:
        raise DataError(f"There is no judge of the kind {kind!r}.{nearest(kind, kinds())}")
    return _makers[kind]


def spec_of(told: str, labels: Sequence[str] = (), more: Mapping[str, Any] | None = None) -> JudgeSpec:
    """The judge that ``metric: told`` with ``labels`` means, with what ``judge:`` says on top.

    Raises ``DataError`` for a metric, a kind, a key or a value that no judge knows, or where labels are missing.
    """
    kind = ("choice" if labels else "exact") if told == BY_LABELS else OTHER_NAMES.get(told, told)
    if told not in metrics() and kind not in kinds():
        raise DataError(f"The metric {told!r} is not known.{nearest(told, metrics())}")
    fields = {"kind": kind, "labels": tuple(labels), **(more or {})}
    for key in fields:
        if key not in JudgeSpec.__struct_fields__:
            raise DataError(f"`judge` has no key {key!r}.{nearest(key, JudgeSpec.__struct_fields__)}")
    try:
        spec = msgspec.convert(fields, JudgeSpec)
    except msgspec.ValidationError as error:
        raise DataError(f"`judge`: {error}.") from error
    maker(spec.kind)
    _check_labels(spec)
    return spec


def metric_file(path: Path, name: str) -> None:
    """Run the Python file ``path``, which registers the metric ``name``. Raises ``DataError`` when it does not."""
    _own()
    found = importlib.util.spec_from_file_location(f"metaspo_metric_{name}", path)
    assert found is not None and found.loader is not None
    before = _makers.pop(name, None)
    try:
        found.loader.exec_module(importlib.util.module_from_spec(found))
    except DataError:
        raise
    except Exception as error:  # whatever somebody's file raises
        raise DataError(f"{path}: cannot be run ({type(error).__name__}: {error}).") from error
    if name not in _makers:
        if before is not None:
            _makers[name] = before
        raise DataError(f'{path}: registers no metric {name!r}: put @metric("{name}") above its class.')
    if not hasattr(_makers[name], "verdict"):
        del _makers[name]
        raise DataError(f"{path}: the class of the metric {name!r} has no method verdict(self, example, text).")
