"""One door for all methods: open the run, let the method search, confirm on the holdout, write the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from msgspec.structs import replace

from optimizer.errors import BudgetSpent, RunBlocked
from optimizer.evaluation.evaluation import Evaluation, OnEvent, ignore
from optimizer.methods import baselines
from optimizer.methods.found import Found
from optimizer.models import Backend, price_of
from optimizer.proposals.analysis import Rewriter, reworded
from optimizer.proposals.components import corpus_for
from optimizer.proposals.editor import ComponentEditor
from optimizer.proposals.proposal import Proposer
from optimizer.records import Budget, ModelRole, Scores, SearchResult, SearchSpec
from optimizer.run.holdout import Chosen, Holdout
from optimizer.steps.confirm import Confirmation, arm_of, confirm
from optimizer.steps.plan import DEFAULT_CALLS, LEAST_CALLS, Plan, plan_for
from optimizer.steps.preflight import constant_baseline
from optimizer.steps.racing import CHARACTERS_PER_TOKEN

PROMPT_GROWTH = 600
"""Characters that a candidate is longer than the seed, on average."""
TYPICAL_ANSWER = 150
"""Tokens of an answer, where the model's limit is higher."""
PUBLISHED_LOOPS = frozenset({"outer_loop", "metaspo_ape", "metaspo_evo"})


async def search(
    spec: SearchSpec,
    *,
    clock: Callable[[], float],
    on_event: OnEvent = ignore,
    backends: Mapping[ModelRole, Backend] | None = None,
) -> SearchResult:
    """Run one search to its end and return the result with its evidence.

    ``clock`` gives seconds since the epoch; ``on_event`` follows the run; ``backends`` stand in for models. Raises an
    ``OptimizerError`` with one clear sentence when the run cannot start or go on; what was paid for stays in the
    journal.
    """
    _check(spec)
    spec = with_calls(spec)
    async with Evaluation.open(spec, clock=clock, on_event=on_event, backends=backends) as evaluation:
        plan = plan_for(spec)
        holdout = Holdout(spec, run=evaluation.nonce("holdout"))
        if _confirms(spec):
            holdout.check()
        reserve = plan.confirmation_calls if spec.budget.calls is not None and not _as_published(spec) else 0
        evaluation.set_aside(reserve)
        found = await find(spec, evaluation, plan)
        evaluation.give_back(reserve)
        challenged = found.winner != _incumbent(spec) or found.adapted
        examples, told = holdout.choose(
            plan.holdout_per_task, plan.unseen_per_task, takes=_confirms(spec) and challenged
        )
        confirmation, notes = await _confirm(spec, evaluation, plan, found, examples)
        beside, left_out = await _beside(spec, evaluation, plan, examples, idle=found.idle)
        evaluation.finished()
        return SearchResult(
            method=spec.method,
            winner=found.winner,
            incumbent=_incumbent(spec),
            user_prompts=found.user_prompts,
            incumbent_scores=confirmation.incumbent,
            winner_scores=confirmation.winner,
            baselines=beside,
            constant_baseline={
                task.name: constant_baseline(task, examples[task.name]) for task in spec.tasks if examples[task.name]
            },
            gate=confirmation.gate,
            ledger=evaluation.ledger,
            wall_seconds=evaluation.seconds,
            proposer=found.proposer,
            generations=found.generations,
            reason=found.reason,
            per_item=confirmation.per_item,
            notes=(*told, *evaluation.notes, *found.notes, *notes, *left_out),
        )


async def find(spec: SearchSpec, evaluation: Evaluation, plan: Plan) -> Found:
    """Let the method of ``spec`` search. Raises ``RunBlocked`` for a method that cannot run on this spec."""
    if spec.method in PUBLISHED_LOOPS or (spec.method == "metaspo" and spec.faithful):
        from optimizer.methods.faithful import faithful

        return await faithful(spec, evaluation)
    if spec.method == "metaspo":
        from optimizer.metaspo import metaspo

        return await metaspo(spec, evaluation, proposer_for(spec, evaluation), plan)
    if spec.method == "protegi":
        from optimizer.methods.protegi import protegi

        return await protegi(spec, evaluation)
    if spec.method == "ape":
        from optimizer.methods.ape import ape

        return await ape(spec, evaluation)
    if spec.method == "sprig":
        from optimizer.methods.sprig import sprig

        return await sprig(spec, evaluation, plan)
    if spec.method == "gepa":
        from optimizer.methods.gepa import gepa_search

        return await gepa_search(spec, evaluation, plan)
    return await baselines.find(spec, evaluation)


def proposer_for(spec: SearchSpec, evaluation: Evaluation) -> Proposer:
    """The optimizer model when there is one, else the edit search. ``options: {proposer: components}`` overrides."""
    wanted = spec.options.get("proposer", "")
    if wanted == "rewrite" or (not wanted and evaluation.has("optimizer")):
        return Rewriter(evaluation)
    rephrase = partial(reworded, evaluation) if evaluation.has("optimizer") else None
    return ComponentEditor(corpus_for(spec.sources), seed=spec.seed, rephrase=rephrase)


def with_calls(spec: SearchSpec) -> SearchSpec:
    """A budget in USD alone also gets a number of calls, from the base model's price and mean lengths.

    The loop sizes and the share of the holdout follow from it. The limit in USD stays the hard one.
    """
    if spec.budget.usd is None or spec.budget.calls is not None:
        return spec
    lengths = [len(task.user_prompt) + len(example.question) for task in spec.sources for example in task.select[:100]]
    tokens_in = (sum(lengths) / max(1, len(lengths)) + len(spec.seed_prompt) + PROMPT_GROWTH) / CHARACTERS_PER_TOKEN
    tokens_out = min(spec.models.base.max_tokens or TYPICAL_ANSWER, TYPICAL_ANSWER)
    each = price_of(spec.models.base).of(tokens_in, tokens_out)
    affordable = DEFAULT_CALLS if each <= 0 else int(0.9 * spec.budget.usd / each)
    calls = max(LEAST_CALLS, min(DEFAULT_CALLS, affordable))
    return replace(spec, budget=Budget(calls=calls, usd=spec.budget.usd))


def _check(spec: SearchSpec) -> None:
    if not spec.sources:
        raise RunBlocked("There is no source task to learn from: give at least one task without `role: unseen`.")
    if spec.budget.calls is not None and spec.budget.calls < LEAST_CALLS:
        raise RunBlocked(f"A search needs a budget of at least {LEAST_CALLS} calls, this one has {spec.budget.calls}.")
    wanted = spec.options.get("proposer", "")
    if wanted not in ("", "rewrite", "components"):
        raise RunBlocked(f"The option proposer is {wanted!r}: take `rewrite` or `components`, or leave it out.")


def _incumbent(spec: SearchSpec) -> str:
    return spec.seed_prompt if spec.incumbent is None else spec.incumbent


def _as_published(spec: SearchSpec) -> bool:
    """Loops that run to their own end and test themselves. ``options: {confirm: true}`` puts the gate on top."""
    return (spec.faithful or spec.method in PUBLISHED_LOOPS) and not spec.options.get("confirm", False)


def _confirms(spec: SearchSpec) -> bool:
    """Whether the verdict on the holdout is about something that was searched for: not a fixed sentence, and not a loop
    that measures itself and has no gate."""
    return not _as_published(spec) and spec.method not in baselines.FIXED_METHODS


async def _confirm(
    spec: SearchSpec, evaluation: Evaluation, plan: Plan, found: Found, examples: Chosen
) -> tuple[Confirmation, tuple[str, ...]]:
    """The holdout, or, when the budget does not reach, no evidence and a note that says so."""
    nothing = Confirmation(Scores(), Scores(), None, ())
    if _as_published(spec):
        return nothing, ()
    incumbent = arm_of(spec, _incumbent(spec))
    winner = arm_of(spec, found.winner, found.user_prompts if found.adapted else None)
    evaluation.event("confirm", f"holdout: {sum(map(len, examples.values()))} examples, incumbent and winner")
    try:
        confirmation = await confirm(spec, evaluation, incumbent, winner, examples, safety=plan.safety_per_suite)
    except BudgetSpent as spent:
        return nothing, (f"The winner was not confirmed: {spent}",)
    if confirmation.gate is not None:
        evaluation.event("gate", f"{confirmation.gate.outcome}: {confirmation.gate.reason}")
    return confirmation, ()


async def _beside(
    spec: SearchSpec, evaluation: Evaluation, plan: Plan, examples: Chosen, *, idle: bool
) -> tuple[dict[str, Scores], tuple[str, ...]]:
    """The fixed baselines on a part of the confirmation examples (``options: {baselines: full}``: on all of them)."""
    if _as_published(spec):
        return {}, ()
    full = spec.options.get("baselines") == "full"
    if not full and not plan.baseline_per_task:
        return {}, ("The fixed baselines were left out of the report: the budget is too small for them.",)
    part = examples if full else {name: rows[: plan.baseline_per_task] for name, rows in examples.items()}
    return await baselines.beside(spec, evaluation, part, rewrite=not idle)
