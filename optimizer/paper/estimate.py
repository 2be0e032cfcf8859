"""What a protocol will ask for, cell by cell and role by role, before anything is spent.

These are upper bounds, since replies are shared: a cell's search is bounded by ``optimizer.bounds``, its measuring is
what it would take alone. Hours need a pace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from optimizer.bounds import adapted, evaluations_asked, most
from optimizer.estimate import Range
from optimizer.evaluation.rollouts import ATTEMPTS
from optimizer.models import price_of
from optimizer.paper.finding import search_spec
from optimizer.paper.measure import pairs_of
from optimizer.paper.methods import searches
from optimizer.paper.protocol import Cell, Protocol, sources_of, unseen_of
from optimizer.paper.user_prompts import DRAWS_PER_PROMPT
from optimizer.records import ModelSpec, Record, SearchTask
from optimizer.run.spending import Price
from optimizer.steps.plan import plan_for
from optimizer.steps.racing import CHARACTERS_PER_TOKEN

_SHORT_ANSWER, _PROMPT_TOKENS = 16, 400
_OPTIMIZER_TOKENS = ((600, 150), (3000, 900))
"""Tokens in and out of one call that writes a prompt: short and long."""
_JUDGE_FORM, _JUDGE_OUT = 500, (100, 500)
"""Tokens of the checklist around a judged answer, and of a verdict."""

Tasks = Mapping[str, SearchTask]


class Pace(Record, frozen=True, kw_only=True):
    """How fast the models are: base calls per second, and seconds of one optimizer and of one judge call."""

    base_per_second: float
    optimizer_seconds: float
    judge_seconds: float


class CellEstimate(Record, frozen=True, kw_only=True):
    """The most calls of one cell: of the base model to find the prompt (with the check of the ceiling) and to measure
    it, of the optimizer model, of the judge model. ``over``: by how many these are more than the search's budget
    lets it make in all."""

    search_base: int = 0
    search_optimizer: int = 0
    measuring: int = 0
    judging: int = 0
    over: int = 0

    @property
    def base(self) -> int:
        """Calls of the base model."""
        return self.search_base + self.measuring

    @property
    def calls(self) -> int:
        """All calls."""
        return self.base + self.search_optimizer + self.judging - self.over

    def within(self, weights: tuple[float, float, float]) -> tuple[int, int, int]:
        """Base, optimizer and judge calls that weigh most by ``weights`` (USD or seconds of one call) and keep the
        budget."""
        counts, over = [self.base, self.search_optimizer, self.judging], self.over
        for place in sorted(range(3), key=lambda role: weights[role]):
            taken = min(over, counts[place])
            counts[place], over = counts[place] - taken, over - taken
        return counts[0], counts[1], counts[2]

    def seconds(self, pace: Pace) -> float:
        """How long it takes at a pace."""
        each = (1 / pace.base_per_second, pace.optimizer_seconds, pace.judge_seconds)
        return sum(calls * one for calls, one in zip(self.within(each), each, strict=True))

    def plus(self, other: CellEstimate) -> CellEstimate:
        """The calls of both."""
        return CellEstimate(
            search_base=self.search_base + other.search_base,
            search_optimizer=self.search_optimizer + other.search_optimizer,
            measuring=self.measuring + other.measuring,
            judging=self.judging + other.judging,
            over=self.over + other.over,
        )


def estimate_cell(protocol: Protocol, cell: Cell, tasks: Tasks) -> CellEstimate:
    """The estimate of a cell whose tasks are loaded. Calls nobody."""
    sources = [tasks[task.name] for task in sources_of(protocol, cell.domain)]
    unseen = [tasks[task.name] for task in unseen_of(protocol, cell.domain)]
    if cell.method == "constant":
        return CellEstimate()
    if cell.adapted:
        found = _adaptation(protocol, unseen)
        if cell.method in protocol.methods:
            return found
        return found.plus(estimate_cell(protocol, cell.found_by, tasks))  # its prompt has to be found first
    asked = [(task, len(pairs_of(task.holdout, protocol.user_prompts, protocol.ask))) for task in unseen]
    asked += [(task, len(task.holdout)) for task in sources] if protocol.measure_sources else []
    found = CellEstimate(measuring=sum(number for _, number in asked), judging=_judging(asked))
    return found if cell.base else found.plus(_search(protocol, cell, sources[: cell.sources or None]))


def estimate_user_prompts(protocol: Protocol) -> CellEstimate:
    """What writing the unseen tasks' user prompts takes before the first cell; nothing where they are own wordings."""
    if protocol.user_prompts_by == "own" or protocol.models.optimizer is None:
        return CellEstimate()
    names = {task.name for domain in protocol.domains for task in unseen_of(protocol, domain)}
    return CellEstimate(search_optimizer=DRAWS_PER_PROMPT * protocol.user_prompts * len(names))


def usd_of(protocol: Protocol, estimates: Sequence[tuple[Cell | None, CellEstimate]], tasks: Tasks) -> Range | None:
    """What the calls of ``estimates`` cost, each with its cell (None: the user prompts, which are no cell's).

    From the mean length of a question: short answers at the low end, the longest that a model may give at the high end.
    None where a price is not known.
    """
    lengths = [len(task.user_prompt) + len(example.question) for task in tasks.values() for example in task.holdout]
    question = sum(lengths) / max(1, len(lengths)) / CHARACTERS_PER_TOKEN
    low = high = 0.0
    for cell, found in estimates:
        base = protocol.other_bases[cell.base - 1] if cell is not None and cell.base else protocol.models.base
        longest, judged = base.max_tokens or 512, question + _JUDGE_FORM
        models = (base, protocol.models.optimizer, protocol.models.judge)
        asked = (found.base, found.search_optimizer, found.judging)
        prices = [_price(model) if calls else Price() for model, calls in zip(models, asked, strict=True)]
        if not all(price.known for price in prices):
            return None
        short = ((question, min(_SHORT_ANSWER, longest)), _OPTIMIZER_TOKENS[0], (judged, _JUDGE_OUT[0]))
        long = ((question + _PROMPT_TOKENS, longest), _OPTIMIZER_TOKENS[1], (judged + longest, _JUDGE_OUT[1]))
        cheap, dear = ([price.of(*one) for price, one in zip(prices, each, strict=True)] for each in (short, long))
        low += _sum(found.within((cheap[0], cheap[1], cheap[2])), cheap)
        high += _sum(found.within((dear[0], dear[1], dear[2])), dear)
    return Range(low=round(low, 2), high=round(high, 2))


def _price(model: ModelSpec | None) -> Price:
    return price_of(model) if model is not None else Price()


def _sum(calls: Sequence[int], each: Sequence[float]) -> float:
    return sum(number * usd for number, usd in zip(calls, each, strict=True))


def _judging(asked: Sequence[tuple[SearchTask, int]]) -> int:
    """Judge calls for so many base replies of each task."""
    return ATTEMPTS * sum(number for task, number in asked if task.by_model)


def _search(protocol: Protocol, cell: Cell, sources: list[SearchTask]) -> CellEstimate:
    """Calls that find the cell's prompt: the check of the ceiling, then the search."""
    writes = protocol.models.optimizer is not None
    if not searches(cell.method):
        return CellEstimate(search_optimizer=int(cell.method == "one_shot" and writes))
    checked = [(task, min(protocol.sizes.train_size, len(task.train))) for task in sources]
    ceiling = CellEstimate(search_base=sum(number for _, number in checked), judging=_judging(checked))
    if not writes and cell.method not in ("metaspo", "sprig"):
        return ceiling  # the cell is left out for want of an optimizer model
    evaluations = 0
    if cell.method == "gepa":  # as many as our search asks for, those among them that its cache answers
        ours = search_spec(protocol, replace(cell, method="metaspo"), sources)
        evaluations = max(protocol.budget_calls, evaluations_asked(ours, plan_for(ours)))
    spec = search_spec(protocol, cell, sources, gepa_calls=evaluations)
    found = most(spec, plan_for(spec))
    every = found.base + found.optimizer + found.judge
    return ceiling.plus(
        CellEstimate(
            search_base=found.base,
            search_optimizer=found.optimizer,
            judging=found.judge,
            over=every - found.calls,
        )
    )


def _adaptation(protocol: Protocol, unseen: Sequence[SearchTask]) -> CellEstimate:
    """ProTeGi per unseen task: the check of the ceiling, the start and every new user prompt on the train rows, two
    optimizer calls for each new one; then the start and the best of every round on the test rows."""
    sizes, new = protocol.sizes, adapted(protocol.sizes)
    trained = [(task, min(sizes.train_size, len(task.train)) * (2 + new)) for task in unseen]
    tested = [(task, len(task.holdout) * (2 + 2 * sizes.iterations)) for task in unseen]
    return CellEstimate(
        search_base=sum(number for _, number in trained),
        search_optimizer=2 * new * len(unseen) if protocol.models.optimizer is not None else 0,
        measuring=sum(number for _, number in tested),
        judging=_judging([*trained, *tested]),
    )
