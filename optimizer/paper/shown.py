"""Scores as a table shows them, and the means behind them.

The test rows are the same for all seeds, so a mean over seeds keeps the sampling error of one seed and adds the spread
between them: half-width = sqrt(mean half-width squared + (1.96 sd of the seeds)^2 / seeds). A mean over tasks adds
squared half-widths, since tasks are the fixed set that is served. Every mean goes over seeds first, so that a task or
domain with more seeds weighs no more than one with fewer.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean, variance

from optimizer.paper.methods import TITLES, order_of
from optimizer.paper.raw import RawRow
from optimizer.records import Record

_Z = 1.959963984540054


class Shown(Record, frozen=True, kw_only=True):
    """A score in 0..1 as a table shows it; without bounds where none can be given. ``n`` counts test questions,
    ``seeds`` the seeds of the task that has the fewest."""

    score: float
    low: float | None = None
    high: float | None = None
    n: int = 0
    seeds: int = 1


Value = Shown | float | int | str | None


class Table(Record, frozen=True, kw_only=True):
    """A table: its short name, a title, column names, rows (the first cell names the row), a note beneath."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    note: str = ""


# --- means -----------------------------------------------------------------------------------------------------------


def over_seeds(rows: Sequence[RawRow]) -> Shown | None:
    """The mean over the seeds of one method on one task; None without a row."""
    if not rows:
        return None
    score = fmean(row.score for row in rows)
    spread = variance([row.score for row in rows]) / len(rows) * _Z**2 if len(rows) > 1 else 0.0
    below = math.sqrt(fmean((row.score - row.low) ** 2 for row in rows) + spread)
    above = math.sqrt(fmean((row.high - row.score) ** 2 for row in rows) + spread)
    low, high = max(0.0, score - below), min(1.0, score + above)
    return Shown(score=score, low=low, high=high, n=max(row.n for row in rows), seeds=len(rows))


def over_tasks(cells: Iterable[Shown | None]) -> Shown | None:
    """The plain mean over tasks; None when there is none."""
    some = [cell for cell in cells if cell is not None]
    if not some:
        return None
    score = fmean(cell.score for cell in some)
    n, seeds = sum(cell.n for cell in some), min(cell.seeds for cell in some)
    below = math.sqrt(sum((cell.score - (cell.low or 0.0)) ** 2 for cell in some)) / len(some)
    above = math.sqrt(sum(((1.0 if cell.high is None else cell.high) - cell.score) ** 2 for cell in some)) / len(some)
    return Shown(score=score, low=max(0.0, score - below), high=min(1.0, score + above), n=n, seeds=seeds)


def mean_of(rows: Sequence[RawRow], among: Sequence[RawRow] = ()) -> Shown | None:
    """The mean over the tasks of ``rows``, each over its seeds. None when a task is missing that ``among`` has: means
    over different tasks must not stand in one column."""
    tasks = unique(row.task for row in rows)
    if {row.task for row in among} - set(tasks):
        return None
    return over_tasks(over_seeds([row for row in rows if row.task == task]) for task in tasks)


def per_run(rows: Sequence[RawRow], of: Callable[[RawRow], float]) -> float:
    """What one run of a method took: the mean over the domains of the mean over their seeds. All rows of a run say
    the same of it; a prompt that was learned on all domains is one run."""
    domains: dict[str, dict[int, float]] = defaultdict(dict)
    for row in rows:
        domains[row.domain if row.scope == "domain" else ""][row.seed] = of(row)
    return fmean(fmean(seeds.values()) for seeds in domains.values())


def mean_curve(rows: Sequence[RawRow]) -> list[tuple[float, float]]:
    """(calls, test score) after each round of an adaptation: the mean over tasks of the mean over their seeds. A curve
    that ended early stays where it ended; one that was not measured is left out."""
    tasks: dict[tuple[str, str], list[RawRow]] = defaultdict(list)
    for row in rows:
        if row.curve and all(step.test is not None for step in row.curve):
            tasks[row.domain, row.task].append(row)
    longest = max((len(row.curve) for group in tasks.values() for row in group), default=0)
    points = []
    for place in range(longest):
        reached = [[row.curve[min(place, len(row.curve) - 1)] for row in group] for group in tasks.values()]
        calls = fmean(fmean(step.calls for step in steps) for steps in reached)
        points.append((calls, fmean(fmean(step.test or 0.0 for step in steps) for steps in reached)))
    return points


# --- names -----------------------------------------------------------------------------------------------------------


def methods_of(rows: Sequence[RawRow]) -> list[tuple[str, list[RawRow]]]:
    """(label, rows) per method and scope, in the order of the paper's tables."""
    groups: dict[tuple[str, str], list[RawRow]] = defaultdict(list)
    for row in rows:
        groups[row.method, row.scope].append(row)
    return [
        (label_of(*key, groups[key][0].sizes), groups[key]) for key in sorted(groups, key=lambda key: order_of(*key))
    ]


def label_of(method: str, scope: str, sizes: str = "") -> str:
    """A method's name in a table, with the sizes of a published loop."""
    return TITLES.get(method, method) + (", global" if scope == "global" else "") + (f", {sizes}" if sizes else "")


def unique(names: Iterable[str]) -> list[str]:
    """``names`` without repeats, in the order in which they first come."""
    return list(dict.fromkeys(names))
