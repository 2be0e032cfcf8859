"""What finds a system prompt for a cell: one journaled search, or nothing at all where nothing is to be found.

Before a method may try candidates, the start prompt answers the training rows of every source task. A scope whose
tasks are all at their ceiling is not searched: zero optimizer calls, and the row says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from optimizer.errors import RunBlocked
from optimizer.evaluation.evaluation import Evaluation
from optimizer.paper.measure import Backends, measure
from optimizer.paper.methods import search_method, searches
from optimizer.paper.protocol import Cell, Protocol
from optimizer.paper.raw import Step
from optimizer.records import Budget, Event, Record, SearchSpec, SearchTask
from optimizer.search import find
from optimizer.steps.headroom import CEILING
from optimizer.steps.plan import plan_for

SEARCH_ONLY = {"holdout_per_task": 0, "unseen_per_task": 0, "baseline_per_task": 0}
"""The search keeps its whole budget: measuring is done here, the same way for every method."""
OnEvent = Callable[[Event], None]


class Outcome(Record, frozen=True, kw_only=True):
    """A prompt as it was found, with what it cost. ``user_prompts`` are those of an adaptation, best first."""

    prompt: str
    reason: str
    base_calls: int = 0
    requested_calls: int = 0
    optimizer_calls: int = 0
    fresh_calls: int = 0
    wall_seconds: float = 0.0
    saturated: tuple[str, ...] = ()
    curve: tuple[Step, ...] = ()
    user_prompts: tuple[str, ...] = ()


def search_spec(protocol: Protocol, cell: Cell, tasks: Sequence[SearchTask], *, gepa_calls: int = 0) -> SearchSpec:
    """The search of a cell on its source tasks. ``gepa_calls`` are the evaluations that GEPA may ask for."""
    method, faithful = search_method(cell.method)
    budget = Budget(calls=protocol.budget_calls) if cell.method in ("metaspo", "sprig") else Budget()
    options: dict[str, Any] = dict(SEARCH_ONLY)
    if cell.method == "gepa":
        options["search_calls"] = gepa_calls or protocol.budget_calls
    return SearchSpec(
        seed_prompt=protocol.seed_prompt,
        tasks=tuple(tasks),
        models=protocol.models,
        method=method,
        faithful=faithful,
        budget=budget,
        seed=cell.seed,
        sizes=replace(protocol.sizes, test_size=1),  # its test of itself is not what the tables are made from
        home=protocol.home / "search",
        options=options,
        resume=True,
    )


def adaptation_spec(protocol: Protocol, cell: Cell, system_prompt: str, task: SearchTask) -> SearchSpec:
    """ProTeGi on one task's own training rows, the system prompt frozen."""
    return SearchSpec(
        seed_prompt=system_prompt,
        tasks=(replace(task, role="source"),),
        models=protocol.models,
        method="protegi",
        seed=cell.seed,
        sizes=protocol.sizes,
        home=protocol.home / "search",
        resume=True,
    )


async def saturated(
    protocol: Protocol,
    tasks: Sequence[SearchTask],
    prompt: str,
    *,
    clock: Callable[[], float],
    backends: Backends,
) -> tuple[str, ...]:
    """The tasks that ``prompt`` already answers at their ceiling, on ``sizes.train_size`` of their training rows."""
    names = []
    for task in tasks:
        rows = task.train[: protocol.sizes.train_size]
        if not rows:
            continue
        found = await measure(
            protocol.models,
            task,
            prompt,
            [task.user_prompt],
            ask="all",
            quirk="",
            home=protocol.home / "measure",
            clock=clock,
            backends=backends,
            examples=rows,
        )
        if found.score.interval.score >= CEILING:
            names.append(task.name)
    return tuple(names)


async def found_prompt(
    protocol: Protocol,
    cell: Cell,
    tasks: Sequence[SearchTask],
    *,
    gepa_calls: int,
    clock: Callable[[], float],
    on_event: OnEvent,
    backends: Backends,
) -> Outcome:
    """The system prompt of a cell. Raises ``OptimizerError`` as a search does; ``RunBlocked`` where the method cannot
    run with these models."""
    full: tuple[str, ...] = ()
    if searches(cell.method):
        full = await saturated(protocol, tasks, protocol.seed_prompt, clock=clock, backends=backends)
        if len(full) == len(tasks):
            return Outcome(
                prompt=protocol.seed_prompt,
                reason=f"At the ceiling: the start prompt scores {CEILING:.0%} or more on the training rows of every "
                "source task, so nothing was searched.",
                saturated=full,
            )
    if cell.method not in ("metaspo", "sprig") and searches(cell.method) and protocol.models.optimizer is None:
        raise RunBlocked(f"The method {cell.method} needs an optimizer model: add `models: optimizer:`.")
    spec = search_spec(protocol, cell, tasks, gepa_calls=gepa_calls)
    return replace(await followed(spec, clock=clock, on_event=on_event, backends=backends), saturated=full)


async def followed(spec: SearchSpec, *, clock: Callable[[], float], on_event: OnEvent, backends: Backends) -> Outcome:
    """Run the search of ``spec`` without its confirmation; the curve is what it told on its way."""
    curve: list[Step] = []
    bests: list[str] = []

    def listen(event: Event) -> None:
        if "score" in event.data and "calls" in event.data:
            curve.append(Step(calls=event.data["calls"], train=event.data["score"]))
            bests.append(str(event.data.get("best", "")))
        on_event(event)

    async with Evaluation.open(spec, clock=clock, on_event=listen, backends=backends) as evaluation:
        found = await find(spec, evaluation, plan_for(spec))
        ledger, seconds = evaluation.ledger, evaluation.seconds
        evaluation.finished()
    base, optimizer = ledger.roles.get("base"), ledger.roles.get("optimizer")
    return Outcome(
        prompt=found.winner,
        reason=found.reason,
        base_calls=base.paid if base else 0,
        requested_calls=base.requested if base else 0,
        optimizer_calls=optimizer.paid if optimizer else 0,
        fresh_calls=sum(row.paid - row.replayed for row in ledger.roles.values()),
        wall_seconds=seconds,
        curve=tuple(curve),
        user_prompts=tuple(bests) if spec.method == "protegi" else (),
    )
