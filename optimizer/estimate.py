"""What a search will cost, before anything is spent: the most calls of every role (``bounds.py``), tokens and money.

The calls of the published loops are exact, counted as requested evaluations. Every other method is bounded by its
budget; there the estimate is a range. Confirmation on the holdout comes on top of the published loop and is listed
apart.
"""

from __future__ import annotations

from collections.abc import Sequence

from optimizer.bounds import most
from optimizer.evaluation.rollouts import ATTEMPTS
from optimizer.gate.safety import SUITES
from optimizer.methods.baselines import NAMES
from optimizer.models import price_of
from optimizer.records import Example, ModelRole, Record, SearchSpec, SearchTask
from optimizer.search import PUBLISHED_LOOPS
from optimizer.steps.headroom import most_calls
from optimizer.steps.plan import Plan, plan_for

_CHARACTERS_PER_TOKEN = 4.0
_BASELINES = len(NAMES) - 1
"""Beside the winner: the fixed prompts, ``repeat`` and ``one_shot``; ``constant`` calls nobody."""
_SHORT_ANSWER = 16
_PROMPT_GROWTH = 400
"""Tokens that a rewritten system prompt may add, at the high end."""
_OPTIMIZER_IN = (600, 3000)
_OPTIMIZER_OUT = (150, 900)
_JUDGE_EXTRA = 500
"""Tokens of the checklist and the form around one judged answer."""


class Range(Record, frozen=True, kw_only=True):
    """From ``low`` to ``high``."""

    low: float
    high: float


class Estimate(Record, frozen=True, kw_only=True):
    """Calls, tokens and money of one search. ``exact``: base and optimizer calls follow from a formula.

    ``base_calls``, ``optimizer_calls`` and ``judge_calls`` are the most that the search makes of each role; ``calls``
    are those of all roles together as a range, which a budget may end below their sum. ``confirmation_calls`` are the
    base calls on holdout and unseen tasks after a published loop (else included).
    """

    method: str
    exact: bool
    base_calls: int
    optimizer_calls: int
    judge_calls: int
    confirmation_calls: int
    calls: Range
    tokens_in: Range
    tokens_out: Range
    usd: Range
    notes: tuple[str, ...] = ()


def estimate(spec: SearchSpec) -> Estimate:
    """The estimate for ``spec``. Calls nobody."""
    notes: list[str] = []
    plan, exact = plan_for(spec), _published(spec)
    found, limit = most(spec, plan), spec.budget.calls
    base, optimizer, judge = found.base, found.optimizer, found.judge
    arm = plan.holdout_per_task * len(spec.sources) + plan.unseen_per_task * len(spec.unseen)
    confirmation = 0
    if exact:
        confirmation = 2 * arm if spec.options.get("confirm") else 0
        low_base = float(base)
        notes.append("Calls are requested evaluations; cache hits and rejected candidates make them cheaper.")
    else:
        base += _confirmation(spec, plan)
        optimizer = max(optimizer, int(spec.models.optimizer is not None))  # the baseline one_shot beside the winner
        low_base = float(min(base, arm if spec.method in NAMES else plan.reflect_per_task * len(spec.sources)))
        if spec.method in NAMES:
            notes.append("Nothing is searched: incumbent, baseline and the other baselines on the holdout.")
        elif spec.method == "metaspo":
            asked = f"Up to {most_calls(plan.headroom_cells)} base calls ask whether prompts matter here at all."
            notes.append(f"{asked} The low end is a run whose start prompt is right everywhere.")
        notes.append("The high end is the budget." if limit else "No budget of calls ends this search: give one.")
    if any(task.by_model for task in spec.tasks):
        beside = confirmation if exact else base - found.base
        judge += 2 * ATTEMPTS * beside  # with the planted answers and a second judge's opinion
        notes.append("Judge calls count a second question for every verdict that cannot be read; most can.")
    most_of_all = base + optimizer + judge + confirmation
    if limit and not exact:
        base, optimizer, judge = (min(calls, limit) for calls in (base, optimizer, judge))
        most_of_all = min(most_of_all, limit)
    low_base = min(low_base, float(base))
    tokens_in, tokens_out, usd = _money(spec, (low_base, base + confirmation), optimizer, judge)
    unknown = [f"{role} ({model})" for role, model in _unpriced(spec)]
    if unknown:
        notes.append(
            f"No price is known for {', '.join(unknown)}: give price_in and price_out, USD per million tokens."
        )
    return Estimate(
        method=spec.method + (" (faithful)" if spec.faithful else ""),
        exact=exact,
        base_calls=base,
        optimizer_calls=optimizer,
        judge_calls=judge,
        confirmation_calls=confirmation,
        calls=Range(low=round(low_base) + (optimizer + judge // ATTEMPTS if exact else 0), high=most_of_all),
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        usd=usd,
        notes=tuple(notes),
    )


def _published(spec: SearchSpec) -> bool:
    """Whether the method's cost is a closed formula."""
    return spec.method in PUBLISHED_LOOPS or (spec.method == "metaspo" and spec.faithful)


def _confirmation(spec: SearchSpec, plan: Plan) -> int:
    """Base calls of the holdout, of the safety suites and of the baselines beside them."""
    arms = 3 if spec.seed_is_measured else 2
    holdout = arms * plan.holdout_per_task * len(spec.sources) + 2 * plan.unseen_per_task * len(spec.unseen)
    each = max(plan.holdout_per_task, plan.unseen_per_task)
    beside = each if spec.options.get("baselines") == "full" else plan.baseline_per_task
    return holdout + _BASELINES * beside * len(spec.tasks) + 2 * len(SUITES) * plan.safety_per_suite


def _money(spec: SearchSpec, base: tuple[float, float], optimizer: int, judge: int) -> tuple[Range, Range, Range]:
    """Tokens in, tokens out and USD from mean lengths of the questions: short answers at the low end, the most that the
    model may say at the high end."""
    question = _mean_question(spec)
    system = len(spec.seed_prompt) / _CHARACTERS_PER_TOKEN
    longest = spec.models.base.max_tokens or 512
    low_in, high_in = base[0] * (question + system), base[1] * (question + system + _PROMPT_GROWTH)
    low_out, high_out = base[0] * min(_SHORT_ANSWER, longest), base[1] * longest
    price = price_of(spec.models.base)
    low_usd, high_usd = price.of(low_in, low_out), price.of(high_in, high_out)
    if spec.models.optimizer is not None:
        price = price_of(spec.models.optimizer)
        tokens = [(optimizer * into, optimizer * out) for into, out in zip(_OPTIMIZER_IN, _OPTIMIZER_OUT, strict=True)]
        low_usd, high_usd = low_usd + price.of(*tokens[0]), high_usd + price.of(*tokens[1])
        low_in, high_in, low_out, high_out = (
            low_in + tokens[0][0], high_in + tokens[1][0], low_out + tokens[0][1], high_out + tokens[1][1]
        )  # fmt: skip
    if judge and spec.models.judge is not None:
        into = judge * (question + _JUDGE_EXTRA)
        price = price_of(spec.models.judge)
        low_usd, high_usd = (
            low_usd + price.of(into, judge * 100),
            high_usd + price.of(into + judge * longest, judge * 500),
        )
        low_in, high_in, low_out, high_out = (
            low_in + into, high_in + into + judge * longest, low_out + judge * 100, high_out + judge * 500
        )  # fmt: skip
    limit = spec.budget.usd
    if limit is not None:
        low_usd, high_usd = min(low_usd, limit), min(high_usd, limit)
    return (
        Range(low=round(low_in), high=round(high_in)),
        Range(low=round(low_out), high=round(high_out)),
        Range(low=round(low_usd, 4), high=round(high_usd, 4)),
    )


def _mean_question(spec: SearchSpec) -> float:
    """Tokens of a mean user message."""
    lengths = [len(task.user_prompt) + len(example.question) for task in spec.sources for example in _some(task)]
    return sum(lengths) / max(1, len(lengths)) / _CHARACTERS_PER_TOKEN


def _some(task: SearchTask) -> Sequence[Example]:
    return (*task.select, *task.reflect)[:200]


def _unpriced(spec: SearchSpec) -> list[tuple[str, str]]:
    """Roles whose model has no known price."""
    roles: tuple[ModelRole, ...] = ("base", "optimizer", "judge")
    models = [(role, model) for role in roles if (model := spec.models.role(role)) is not None]
    return [(role, model.model) for role, model in models if not price_of(model).known]
