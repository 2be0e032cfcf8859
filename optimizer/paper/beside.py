"""The published numbers beside the measured ones, and the same replies under the published metrics."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import msgspec
import yaml

from optimizer.paper.methods import SYSTEM_METHODS
from optimizer.paper.raw import RawRow
from optimizer.paper.tables import Shown, Table, Value, label_of, over_seeds

_FILE = Path(__file__).parent / "published.yaml"


class _Generalization(msgspec.Struct, frozen=True):
    tasks: list[str]
    rows: dict[str, list[float | None]]


class _Adaptation(msgspec.Struct, frozen=True):
    domains: list[str]
    rows: dict[str, list[float]]


class Published(msgspec.Struct, frozen=True):
    """What the paper prints, in percent. Keys of ``generalization`` are ``scope/method``."""

    model: str
    differs: str
    generalization: _Generalization
    adaptation: _Adaptation
    ablations: dict[str, float]
    robustness: float


@cache
def published() -> Published:
    """The figures of the file beside this one."""
    return msgspec.convert(yaml.safe_load(_FILE.read_text(encoding="utf-8")), Published)


def beside_published(rows: Sequence[RawRow]) -> list[Table]:
    """Measured and published scores of the paper's own tasks, one table for each part of its protocol."""
    told = published()
    plain = [r for r in rows if not (r.sources or r.found_on) and r.role == "unseen"]
    by_task: list[tuple[Value, ...]] = []
    for place, task in enumerate(told.generalization.tasks):
        for key, values in told.generalization.rows.items():
            scope, _, method = key.partition("/")
            found = over_seeds(
                [r for r in plain if (r.task, r.scope, r.method, r.adapted) == (task, scope, method, False)]
            )
            if found is not None:
                value = values[place]
                by_task.append((task, label_of(method, scope), found, None if value is None else value / 100))
    columns = ("task", "method", "measured", f"published ({told.model})")
    title = "Beside the published figures: unseen tasks"
    return (
        [Table(name="beside", title=title, columns=columns, rows=tuple(by_task), note=told.differs)] if by_task else []
    )


def as_published(rows: Sequence[RawRow]) -> list[Table]:
    """The same replies by the published metrics: letters picked out of prose, a class for every malformed answer."""
    chosen = [
        row for row in rows if row.published_score is not None and not (row.adapted or row.sources or row.found_on)
    ]
    lines: list[tuple[Value, ...]] = []
    tasks = list(dict.fromkeys(row.task for row in chosen))
    for method, scope in sorted(
        {(r.method, r.scope) for r in chosen}, key=lambda k: (SYSTEM_METHODS.index(k[0]), k[1])
    ):
        for task in tasks:
            group = [row for row in chosen if (row.method, row.scope, row.task) == (method, scope, task)]
            right = over_seeds(group)
            if right is None:
                continue
            quirky = sum(row.published_score or 0.0 for row in group) / len(group)
            malformed = sum(row.malformed for row in group) / len(group)
            shown = Shown(score=quirky, n=right.n, seeds=right.seeds)
            lines.append((task, label_of(method, scope), right, shown, quirky - right.score, malformed))
    columns = ("task", "method", "right by default", "as published", "difference", "malformed")
    note = "The same replies under both metrics. No interval is given for a metric that adds classes as it goes."
    title = "As published: what the published metrics make of the same replies"
    return [Table(name="as_published", title=title, columns=columns, rows=tuple(lines), note=note)] if lines else []
