"""The paper's protocol: methods beside each other on unseen tasks, then each unseen task adapted under the frozen
prompt.

Unseen generalization: every method searches on the source tasks of a domain, its prompt is measured on tasks it never
saw. Test-time adaptation: the user prompt of one unseen task is optimized (ProTeGi) on that task's own train rows
while the system prompt stays as found; this asks what the system prompt is still worth once the user prompt is tuned.

One search file is one domain. Every run has its own journal, so the whole protocol can be stopped and resumed. Each
unseen task is asked by its own user prompt (the paper: the mean of ten); intervals are those of ``optimizer.scoring``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_args

import msgspec

from optimizer.errors import SearchFileError
from optimizer.evaluation import OnEvent, ignore
from optimizer.models import Backend
from optimizer.records import Interval, Method, ModelRole, Record, SearchResult, SearchSpec, SearchTask
from optimizer.search import search

FAITHFUL = "metaspo-faithful"
DEFAULT_METHODS = ("default", "cot", "service", "sprig", FAITHFUL, "metaspo")


class Cell(Record, frozen=True, kw_only=True):
    """One method on one unseen task: as found, and with its user prompt adapted (None when that was not asked for)."""

    domain: str
    method: str
    task: str
    unseen: Interval | None
    adapted: Interval | None = None


class PaperReport(Record, frozen=True, kw_only=True):
    """All cells, the system prompt of each (domain, method), calls paid and USD."""

    methods: tuple[str, ...]
    cells: tuple[Cell, ...]
    prompts: dict[str, dict[str, str]]
    constant: dict[str, float]
    calls: int
    usd: float
    wall_seconds: float


async def paper(
    specs: Sequence[SearchSpec],
    methods: Sequence[str],
    *,
    adapt: Mapping[str, SearchTask] | None = None,
    clock: Callable[[], float],
    on_event: OnEvent = ignore,
    backends: Mapping[ModelRole, Backend] | None = None,
) -> PaperReport:
    """Run ``methods`` on every domain. ``adapt`` holds the unseen tasks to adapt by name, each with train rows of its
    own (role ``source``); empty or None leaves adaptation out. Raises ``OptimizerError`` as a search does."""
    started = clock()
    cells: list[Cell] = []
    prompts: dict[str, dict[str, str]] = {}
    constant: dict[str, float] = {}
    results: list[SearchResult] = []
    for number, spec in enumerate(specs, start=1):
        domain = spec.tasks[0].domain or f"domain {number}"
        for method in methods:
            found = await search(as_method(spec, method), clock=clock, on_event=on_event, backends=backends)
            results.append(found)
            prompts.setdefault(domain, {})[method] = found.winner
            constant.update(found.constant_baseline)
            for task in spec.unseen:
                measured = found.winner_scores.unseen.tasks.get(task.name)
                adapted = None
                if adapt and task.name in adapt:
                    tuned = adaptation(spec, found.winner, adapt[task.name])
                    outcome = await search(tuned, clock=clock, on_event=on_event, backends=backends)
                    results.append(outcome)
                    score = outcome.winner_scores.holdout.tasks.get(task.name)
                    adapted = score.interval if score else None
                cells.append(
                    Cell(
                        domain=domain,
                        method=method,
                        task=task.name,
                        unseen=measured.interval if measured else None,
                        adapted=adapted,
                    )
                )
    return PaperReport(
        methods=tuple(methods),
        cells=tuple(cells),
        prompts=prompts,
        constant={name: value for name, value in constant.items() if any(cell.task == name for cell in cells)},
        calls=sum(result.ledger.calls for result in results),
        usd=sum(result.ledger.usd for result in results),
        wall_seconds=clock() - started,
    )


def as_method(spec: SearchSpec, method: str) -> SearchSpec:
    """``spec`` under another method; the published loops are measured on the unseen tasks as well. Raises
    ``SearchFileError`` for a method that is not known."""
    name = "metaspo" if method == FAITHFUL else method
    if name not in get_args(Method):
        raise SearchFileError(
            f"The method {method!r} is not known. Use {FAITHFUL}, or one of {', '.join(get_args(Method))}."
        )
    options: dict[str, Any] = {**spec.options, "confirm": True}
    return msgspec.structs.replace(spec, method=name, faithful=method == FAITHFUL, options=options)


def adaptation(spec: SearchSpec, system_prompt: str, task: SearchTask) -> SearchSpec:
    """The search that adapts one task's user prompt under a frozen system prompt."""
    return msgspec.structs.replace(
        spec, seed_prompt=system_prompt, incumbent=None, method="protegi", faithful=False, tasks=(task,)
    )


def paper_page(report: PaperReport) -> str:
    """The report as text: one table for unseen generalization, one for adaptation where there was one."""
    return "\n".join(_lines(report))


def _lines(report: PaperReport) -> Iterator[str]:
    tasks = list(dict.fromkeys(cell.task for cell in report.cells))
    yield "Unseen generalization (score on tasks that the search never saw, in percent)"
    yield from _table(report, tasks, lambda cell: cell.unseen)
    if any(cell.adapted for cell in report.cells):
        yield ""
        yield "Test-time adaptation (user prompt tuned on the task's own train rows, system prompt frozen)"
        yield from _table(report, tasks, lambda cell: cell.adapted)
    yield ""
    yield f"{report.calls:,} calls, {report.usd:.4f} USD, {report.wall_seconds:.0f} s"


def _table(report: PaperReport, tasks: Sequence[str], pick: Callable[[Cell], Interval | None]) -> Iterator[str]:
    found = {(cell.method, cell.task): pick(cell) for cell in report.cells}
    rows = [["", *tasks, "mean"]]
    for method in report.methods:
        values = [found.get((method, task)) for task in tasks]
        scores = [value.score for value in values if value is not None]
        mean = f"{100 * sum(scores) / len(scores):.1f}" if scores else "-"
        rows.append([method, *("-" if value is None else _shown(value) for value in values), mean])
    if report.constant:
        known = [report.constant[task] for task in tasks if task in report.constant]
        mean = f"{100 * sum(known) / len(known):.1f}" if known else "-"
        rows.append(
            [
                "constant answer",
                *(f"{100 * report.constant[t]:.1f}" if t in report.constant else "-" for t in tasks),
                mean,
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _shown(interval: Interval) -> str:
    return f"{100 * interval.score:.1f} ({100 * interval.low:.0f}-{100 * interval.high:.0f})"
