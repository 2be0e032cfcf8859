"""What a protocol will ask for, cell by cell, before anything is spent: an upper bound, since replies are shared.

The calls of the published loops follow closed formulas (``optimizer.estimate``); the other searches are bounded by
their budget. Hours need a pace: the run's own when it has begun, else one that is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from optimizer.estimate import Range, estimate
from optimizer.models import price_of
from optimizer.paper.finding import search_spec
from optimizer.paper.measure import pairs_of
from optimizer.paper.methods import FAITHFUL, searches
from optimizer.paper.protocol import Cell, Protocol, sources_of, unseen_of
from optimizer.records import Record, SearchTask
from optimizer.steps.racing import CHARACTERS_PER_TOKEN

_SHORT_ANSWER, _PROMPT_TOKENS = 16, 400
_OPTIMIZER_TOKENS = ((600, 150), (3000, 900))
"""Tokens in and out of one call that writes a prompt: short and long."""


class CellEstimate(Record, frozen=True, kw_only=True):
    """The most calls of one cell: to find the prompt, to measure it."""

    search_base: int
    search_optimizer: int
    measuring: int

    @property
    def calls(self) -> int:
        """All calls."""
        return self.search_base + self.search_optimizer + self.measuring

    def seconds(self, base_per_second: float, optimizer_seconds: float) -> float:
        """How long it takes at a pace: base calls per second, seconds per optimizer call."""
        return (self.search_base + self.measuring) / base_per_second + self.search_optimizer * optimizer_seconds


def estimate_cell(protocol: Protocol, cell: Cell, tasks: Mapping[str, SearchTask]) -> CellEstimate:
    """The estimate of a cell whose tasks are loaded. Calls nobody."""
    sources = [tasks[task.name] for task in sources_of(protocol, cell.domain)]
    unseen = [tasks[task.name] for task in unseen_of(protocol, cell.domain)]
    if cell.method == "constant":
        return CellEstimate(search_base=0, search_optimizer=0, measuring=0)
    if cell.adapted:
        return _adaptation(protocol, unseen)
    measured = sum(len(pairs_of(task.holdout, protocol.user_prompts, protocol.ask)) for task in unseen)
    measured += sum(len(task.holdout) for task in sources) if protocol.measure_sources else 0
    judged = [task for task in (*sources, *unseen) if task.judge.kind == "rubric"]
    measured += round(measured * len(judged) / max(1, len(sources) + len(unseen)))
    base, optimizer = 0, 0
    if not cell.base:
        base, optimizer = _search(protocol, cell, sources[: cell.sources or None])
    return CellEstimate(search_base=base, search_optimizer=optimizer, measuring=measured)


def usd_of(protocol: Protocol, estimates: Sequence[CellEstimate], tasks: Mapping[str, SearchTask]) -> Range | None:
    """What the calls cost, from the mean length of a question: short answers at the low end, the longest that the base
    model may give at the high end. None where a price is not known. A judge's calls are not in it."""
    base, optimizer = protocol.models.base, protocol.models.optimizer
    prices = [price_of(model) for model in (base, optimizer) if model is not None]
    if not all(price.known for price in prices):
        return None
    lengths = [len(task.user_prompt) + len(example.question) for task in tasks.values() for example in task.holdout]
    question = sum(lengths) / max(1, len(lengths)) / CHARACTERS_PER_TOKEN
    calls = sum(found.search_base + found.measuring for found in estimates)
    longest = base.max_tokens or 512
    low = prices[0].of(calls * question, calls * min(_SHORT_ANSWER, longest))
    high = prices[0].of(calls * (question + _PROMPT_TOKENS), calls * longest)
    if optimizer is not None:
        writes = sum(found.search_optimizer for found in estimates)
        low += prices[1].of(writes * _OPTIMIZER_TOKENS[0][0], writes * _OPTIMIZER_TOKENS[0][1])
        high += prices[1].of(writes * _OPTIMIZER_TOKENS[1][0], writes * _OPTIMIZER_TOKENS[1][1])
    return Range(low=round(low, 2), high=round(high, 2))


def _search(protocol: Protocol, cell: Cell, sources: list[SearchTask]) -> tuple[int, int]:
    if cell.method == "one_shot":
        return 0, 1
    if not searches(cell.method):
        return 0, 0
    ceiling = sum(min(protocol.sizes.train_size, len(task.train)) for task in sources)
    spec = search_spec(protocol, cell, sources)
    if cell.method in ("metaspo_ape", "metaspo_evo"):  # the loop of the same sizes, one optimizer call a proposal
        found = estimate(replace(spec, method="metaspo", faithful=True))
        return found.base_calls + ceiling, found.optimizer_calls // 2
    if cell.method == "gepa":
        return protocol.budget_calls + ceiling, round(0.04 * protocol.budget_calls)
    found = estimate(spec)
    assert cell.method != FAITHFUL or found.exact
    return found.base_calls + ceiling, found.optimizer_calls


def _adaptation(protocol: Protocol, unseen: list[SearchTask]) -> CellEstimate:
    """ProTeGi per unseen task: n (1 + m + 2 N k m) base calls, two optimizer calls for each new prompt, and the best
    prompt of every round on the test rows."""
    sizes = protocol.sizes
    rounds = 2 * sizes.iterations
    new = sizes.user_candidates * (1 + rounds * min(sizes.user_keep, 1 + sizes.user_candidates))
    train = sum(min(sizes.train_size, len(task.train)) for task in unseen)
    tested = sum(len(task.holdout) for task in unseen) * (2 + rounds)
    return CellEstimate(search_base=train * (2 + new), search_optimizer=2 * new * len(unseen), measuring=tested)
