"""The published numbers beside the measured ones, and the same replies under the published metrics."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import msgspec
import yaml

from optimizer.paper.methods import order_of
from optimizer.paper.raw import RawRow
from optimizer.paper.tables import Shown, Table, Value, label_of, mean_of, over_seeds, over_tasks

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
    """Measured and published scores, part by part, wherever the paper prints a figure for what was measured."""
    told = published()
    unseen = [row for row in rows if row.role == "unseen" and not (row.sources or row.found_on)]
    plain = [row for row in unseen if not row.adapted]
    lines: list[tuple[Value, ...]] = []
    for place, task in enumerate(told.generalization.tasks):
        for key, values in told.generalization.rows.items():
            scope, _, method = key.partition("/")
            group = [row for row in plain if (row.task, row.scope, row.method) == (task, scope, method)]
            lines += _line("unseen", task, method, scope, over_seeds(group), values[place])
    for place, domain in enumerate(told.adaptation.domains):
        for method, scores in told.adaptation.rows.items():
            group = [row for row in unseen if row.adapted and (row.domain, row.method) == (domain, method)]
            lines += _line("adapted", domain, method, "domain", mean_of(group), scores[place])
    for method, score in told.ablations.items():
        group = [row for row in plain if row.scope == "domain" and row.method == method]
        if {row.domain for row in group} >= set(told.adaptation.domains):
            means = [mean_of([row for row in group if row.domain == domain]) for domain in told.adaptation.domains]
            lines += _line("mean of five domains", "all", method, "domain", over_tasks(means), score)
    columns = ("part", "task or domain", "method", "measured", f"published ({told.model})")
    title = "Beside the published figures"
    return [Table(name="beside", title=title, columns=columns, rows=tuple(lines), note=told.differs)] if lines else []


def _line(
    part: str, what: str, method: str, scope: str, found: Shown | None, value: float | None
) -> list[tuple[Value, ...]]:
    """A row of the table, none where nothing was measured."""
    if found is None:
        return []
    return [(part, what, label_of(method, scope), found, None if value is None else value / 100)]


def as_published(rows: Sequence[RawRow]) -> list[Table]:
    """The same replies by the published metrics: letters picked out of prose, a class for every malformed answer."""
    chosen = [row for row in rows if row.published_score is not None and row.plain]
    lines: list[tuple[Value, ...]] = []
    tasks = list(dict.fromkeys(row.task for row in chosen))
    for method, scope in sorted({(r.method, r.scope) for r in chosen}, key=lambda key: order_of(*key)):
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
