"""One door for all methods: open the run, let the method search, confirm on the holdout, write the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from optimizer.analysis import Rewriter
from optimizer.components import corpus_for
from optimizer.confirm import Confirmation, confirm, confirmation_examples
from optimizer.errors import BudgetSpent, RunBlocked
from optimizer.evaluation import Evaluation, OnEvent, ignore
from optimizer.found import Found
from optimizer.metaspo import metaspo
from optimizer.models import Backend
from optimizer.plan import LEAST_CALLS, Plan, plan_for
from optimizer.preflight import constant_baseline
from optimizer.proposals import Proposer
from optimizer.records import Example, ModelRole, Scores, SearchResult, SearchSpec
from optimizer.sprig import ComponentEditor


async def search(
    spec: SearchSpec,
    *,
    clock: Callable[[], float],
    on_event: OnEvent = ignore,
    backends: Mapping[ModelRole, Backend] | None = None,
) -> SearchResult:
    """Run one search to its end and return the result with its evidence.

    ``clock`` gives seconds since the epoch; ``on_event`` follows the run; ``backends`` stand in for models. Raises an
    ``OptimizerError`` with one clear sentence when the run cannot start or go on; what was paid for stays in the journal.
    """
    if not spec.sources:
        raise RunBlocked("There is no source task to learn from: give at least one task without `role: unseen`.")
    started = clock()
    async with Evaluation.open(spec, clock=clock, on_event=on_event, backends=backends) as evaluation:
        plan = plan_for(spec)
        if spec.budget.calls is not None and spec.budget.calls < LEAST_CALLS:
            raise RunBlocked(
                f"A search needs a budget of at least {LEAST_CALLS} calls, this one has {spec.budget.calls}."
            )
        incumbent = spec.incumbent if spec.incumbent is not None else spec.seed_prompt
        found = await _find(spec, evaluation, plan)
        examples = confirmation_examples(spec, plan.holdout_per_task, plan.unseen_per_task)
        confirmation, note = await _confirm(spec, evaluation, incumbent, found, examples)
        evaluation.finished()
        return SearchResult(
            method=spec.method,
            winner=found.winner,
            incumbent=incumbent,
            user_prompts=found.user_prompts,
            incumbent_scores=confirmation.incumbent,
            winner_scores=confirmation.winner,
            constant_baseline={
                task.name: constant_baseline(task, examples[task.name]) for task in spec.tasks if examples[task.name]
            },
            gate=confirmation.gate,
            ledger=evaluation.ledger,
            wall_seconds=clock() - started,
            proposer=found.proposer,
            generations=found.generations,
            reason=found.reason,
            per_item=confirmation.per_item,
            notes=(*evaluation.notes, *found.notes, *note),
        )


def proposer_for(spec: SearchSpec, evaluation: Evaluation) -> Proposer:
    """The optimizer model when there is one, else the edit search. ``options: {proposer: components}`` overrides."""
    wanted = spec.options.get("proposer", "")
    if wanted == "rewrite" or (not wanted and evaluation.has("optimizer")):
        return Rewriter(evaluation)
    return ComponentEditor(corpus_for(spec.sources), seed=spec.seed)


async def _find(spec: SearchSpec, evaluation: Evaluation, plan: Plan) -> Found:
    return await metaspo(spec, evaluation, proposer_for(spec, evaluation), plan)


async def _confirm(
    spec: SearchSpec,
    evaluation: Evaluation,
    incumbent: str,
    found: Found,
    examples: dict[str, tuple[Example, ...]],
) -> tuple[Confirmation, tuple[str, ...]]:
    """The holdout, or, when the budget does not reach, no evidence and a note that says so."""
    evaluation.event("confirm", f"holdout: {sum(map(len, examples.values()))} examples, incumbent and winner")
    try:
        return await confirm(spec, evaluation, incumbent, found.winner, examples), ()
    except BudgetSpent as spent:
        return Confirmation(Scores(), Scores(), None, ()), (f"The winner was not confirmed: {spent}",)
