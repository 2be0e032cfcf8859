"""A prompt that a person wrote, before the same gate as one that a search found: what CI asks before a merge.

Nothing is searched. The prompt in force and the new one answer the same fresh holdout examples, the safety suites are
asked, the gate decides. The pair's journal is gone on with, so asking again about the same pair costs nothing and uses
no further example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec.structs import replace

from optimizer.errors import RunBlocked
from optimizer.evaluation.evaluation import Evaluation, OnEvent, ignore
from optimizer.gate.safety import SUITES
from optimizer.models import Backend
from optimizer.records import Budget, ModelRole, Record, SearchResult, SearchSpec
from optimizer.run.holdout import Holdout
from optimizer.steps.confirm import arm_of, confirm
from optimizer.steps.plan import GATE_EXAMPLES, SUITE_ITEMS, cost_of_rollout
from optimizer.steps.preflight import constant_baseline, judge_sanity

_SPARE = 0.05
"""Share of a limited budget that stays free for planted answers and the judge's known pairs."""


class Sizes(Record, frozen=True, kw_only=True):
    """Examples per source and per unseen task, items per safety suite, and the calls that all of it takes."""

    holdout: int
    unseen: int
    safety: int
    calls: int


async def measure_by_hand(
    spec: SearchSpec,
    prompt: str,
    *,
    clock: Callable[[], float],
    on_event: OnEvent = ignore,
    backends: Mapping[ModelRole, Backend] | None = None,
) -> SearchResult:
    """``prompt`` against the incumbent of ``spec`` (its seed where it names none), and the gate's verdict.

    Arguments as of ``search``. Raises ``RunBlocked`` when the examples or the budget cannot carry a verdict,
    ``BudgetSpent`` and whatever else a search raises; what was paid for stays in the journal.
    """
    incumbent = spec.seed_prompt if spec.incumbent is None else spec.incumbent
    if prompt == incumbent:
        raise RunBlocked("The new prompt is the one in force, word for word: there is nothing to measure.")
    if not spec.sources:
        raise RunBlocked("There is no task to measure on: give at least one task without `role: unseen`.")
    sizes = sizes_of(spec)
    # what was written by hand is part of what names the run; loops and their sizes are not
    own = replace(spec, method="metaspo", faithful=False, resume=True, options={**spec.options, "by_hand": prompt})
    async with Evaluation.open(own, clock=clock, on_event=on_event, backends=backends) as evaluation:
        holdout = Holdout(own, run=evaluation.nonce("holdout"))
        holdout.check()
        await judge_sanity(evaluation, own.sources)
        examples, told = holdout.choose(sizes.holdout, sizes.unseen, takes=True)
        evaluation.event(
            "confirm",
            f"holdout: {sum(map(len, examples.values()))} examples, {sizes.safety} items of each safety suite, "
            "the prompt in force and the new one",
            total=sizes.calls,
        )
        found = await confirm(
            own, evaluation, arm_of(own, incumbent), arm_of(own, prompt), examples, safety=sizes.safety
        )
        evaluation.finished()
        return SearchResult(
            method="by_hand",
            winner=prompt,
            incumbent=incumbent,
            user_prompts={},
            incumbent_scores=found.incumbent,
            winner_scores=found.winner,
            baselines={},
            constant_baseline={
                task.name: constant_baseline(task, examples[task.name]) for task in own.tasks if examples[task.name]
            },
            gate=found.gate,
            ledger=evaluation.ledger,
            wall_seconds=evaluation.seconds,
            proposer="none",
            generations=(),
            reason="The prompt was written by hand; nothing was searched.",
            per_item=found.per_item,
            notes=(*told, *evaluation.notes),
        )


def sizes_of(spec: SearchSpec) -> Sizes:
    """All fresh examples, or as many as ``spec.budget.calls`` can bear. Raises ``RunBlocked`` when these are too few.

    Every safety suite is asked in full, because what a merge brings meets traffic; ``options: {safety_per_suite: N}``
    of the search file says otherwise.
    """
    asked = spec.options.get("safety_per_suite")
    safety = max(0, min(SUITE_ITEMS, asked)) if isinstance(asked, int) else SUITE_ITEMS
    suites = 2 * len(SUITES) * safety
    sources, unseen = len(spec.sources), len(spec.unseen)
    arms = 3 if spec.seed_is_measured else 2
    most = max((len(task.holdout) for task in spec.sources), default=0)
    most_unseen = max((len(task.holdout) for task in spec.unseen), default=0)
    each = cost_of_rollout(spec)
    if spec.models.audit_judge is not None:
        each += each - 1.0
    budget: Budget = spec.budget
    if budget.calls is not None:
        bearable = int((budget.calls * (1 - _SPARE) - suites) / each / (arms * sources + unseen))
        if bearable < min(GATE_EXAMPLES, most):
            least = (min(GATE_EXAMPLES, most) * (arms * sources + unseen) * each + suites) / (1 - _SPARE)
            raise RunBlocked(
                f"A budget of {budget.calls:,} calls is too small for this gate: it takes at least {least:,.0f} "
                f"({suites} of them for the safety suites). Raise `budget: calls`, or leave it out."
            )
        most = min(most, bearable)
    most_unseen = min(most_unseen, max(1, most // 2))
    calls = round((arms * sources * most + 2 * unseen * most_unseen) * each) + suites
    return Sizes(holdout=most, unseen=most_unseen, safety=safety, calls=calls)
