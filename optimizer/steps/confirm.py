"""The holdout: the one time that nobody searched on. Incumbent and finalist answer the same examples; the gate decides.

Both arms of a system prompt search use each task's own user prompt, the one that production sends, so the difference
is the system prompt's alone. An adaptation search compares user prompts at one system prompt.
Unseen tasks are measured beside and do not enter the gate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optimizer.admission.lint import lint
from optimizer.evaluation.evaluation import Evaluation
from optimizer.evaluation.scoring import split_scores
from optimizer.evaluation.sentinels import planted
from optimizer.gate.decision import GateResult, decide
from optimizer.gate.evidence import ALWAYS_REQUIRED, LIVE_REQUIRED, GateInputs, GatePolicy, Paired, TaskEvidence
from optimizer.gate.safety import SafetyEvidence, subset
from optimizer.proposals.components import corpus_for
from optimizer.records import Example, ItemScore, Rollout, Scores, SearchSpec, SearchTask
from optimizer.run.holdout import Chosen
from optimizer.steps.racing import CHARACTERS_PER_TOKEN
from optimizer.steps.safety_run import measure_safety
from optimizer.waves import together


@dataclass(frozen=True)
class Arm:
    """What is compared: a system prompt with one user prompt per task."""

    system: str
    user_prompts: Mapping[str, str]


@dataclass(frozen=True)
class Measured:
    """An arm's rollouts per task, aligned with the confirmation examples of that task."""

    arm: Arm
    rollouts: dict[str, list[Rollout]]


@dataclass(frozen=True)
class Confirmation:
    """Scores of both arms, the gate's verdict (None when there is no challenger), and the scores per holdout item."""

    incumbent: Scores
    winner: Scores
    gate: GateResult | None
    per_item: tuple[ItemScore, ...]


def arm_of(spec: SearchSpec, system: str, user_prompts: Mapping[str, tuple[str, ...]] | None = None) -> Arm:
    """``system`` with each task's own user prompt, or with the first of ``user_prompts`` where it has any."""
    found = user_prompts or {}
    return Arm(system, {task.name: (found.get(task.name) or (task.user_prompt,))[0] for task in spec.tasks})


async def confirm(
    spec: SearchSpec, evaluation: Evaluation, incumbent: Arm, winner: Arm, examples: Chosen, *, safety: int = 0
) -> Confirmation:
    """Measure both arms on ``examples`` and let the gate decide. ``safety``: items of each safety suite that both
    system prompts are asked. Raises ``BudgetSpent`` when it does not fit.
    """
    first, second = await together(measure(spec.tasks, evaluation, arm, examples) for arm in (incumbent, winner))
    gate = None
    if winner != incumbent:
        seed = None
        if spec.seed_is_measured and incumbent.system != winner.system:
            seed = await measure(spec.sources, evaluation, arm_of(spec, spec.seed_prompt), examples)
        evidence = [
            await _evidence(spec, evaluation, task, examples[task.name], first, second, seed)
            for task in spec.sources
            if examples[task.name]
        ]
        suites = SafetyEvidence(None, None, None)
        if safety and incumbent.system != winner.system:
            suites = await measure_safety(evaluation, incumbent.system, winner.system, subset(safety))
        inputs = GateInputs(
            tasks=evidence,
            unsafe=suites.unsafe,
            over_refusal=suites.over_refusal,
            injection=suites.injection,
            prompt_tokens=(_tokens(incumbent.system), _tokens(winner.system)),
            cost_per_request=_cost(spec, first, second),
            lint_hits=_lint_hits(spec, incumbent, winner),
            sentinels=await _sentinels(spec, evaluation, examples),
            judge_noise=spec.standing.judge_noise,
            attempt=spec.standing.attempt or 1,
        )
        gate = decide(inputs, policy_for(spec, measured_safety=suites.unsafe is not None))
    items = tuple(
        ItemScore(
            task=task.name,
            example_id=example.id,
            cluster=example.cluster,
            incumbent=before.score,
            winner=after.score,
        )
        for task in spec.sources
        for example, before, after in zip(
            examples[task.name], first.rollouts[task.name], second.rollouts[task.name], strict=True
        )
    )
    return Confirmation(
        scores_of(spec, evaluation, first, examples), scores_of(spec, evaluation, second, examples), gate, items
    )


def policy_for(spec: SearchSpec, *, measured_safety: bool = False) -> GatePolicy:
    """The gate's bounds. Three tasks are the rule; an operator whose domain has only two says so by name
    (``options: {min_tasks: 2}`` in a search file, ``jobs.min_tasks`` in the settings), and the table shows the bound.

    Where the prompt would meet live traffic, or the safety suites were asked, everything that live traffic needs has
    to be there. Where attempts are counted, the level is spent over them.
    """
    standing = spec.standing
    required = LIVE_REQUIRED if measured_safety or standing.live else ALWAYS_REQUIRED
    if standing.live:
        required |= {"seed"}
    least = standing.min_tasks or int(spec.options.get("min_tasks", GatePolicy().min_tasks))
    return GatePolicy(min_tasks=max(2, least), required=required, spend_alpha=standing.attempt is not None)


async def measure(tasks: Sequence[SearchTask], evaluation: Evaluation, arm: Arm, examples: Chosen) -> Measured:
    """``arm`` on the confirmation examples of every task."""
    answered = await together(
        evaluation.rollouts(arm.system, task, arm.user_prompts[task.name], examples[task.name]) for task in tasks
    )
    return Measured(arm, {task.name: rollouts for task, rollouts in zip(tasks, answered, strict=True)})


def scores_of(spec: SearchSpec, evaluation: Evaluation, arm: Measured, examples: Chosen) -> Scores:
    """An arm's scores with intervals: holdout of source tasks, test of unseen ones."""

    def split(tasks: Sequence[SearchTask]) -> dict[str, tuple[Example, ...]]:
        return {task.name: examples[task.name] for task in tasks if examples[task.name]}

    by_name = {task.name: task for task in spec.tasks}
    parts = [
        split_scores({name: evaluation.score(by_name[name], rows, arm.rollouts[name]) for name, rows in part.items()})
        for part in (split(spec.sources), split(spec.unseen))
    ]
    return Scores(holdout=parts[0], unseen=parts[1])


async def _sentinels(spec: SearchSpec, evaluation: Evaluation, examples: Chosen) -> tuple[int, int] | None:
    """Planted answers that the judge model let pass, of those shown; None where no model judges or no budget is
    left."""
    judged = [task for task in spec.sources if task.by_model and examples[task.name]]
    found = await together(planted(evaluation, task, examples[task.name]) for task in judged)
    counted = [pair for pair in found if pair is not None]
    return (sum(passed for passed, _ in counted), sum(shown for _, shown in counted)) if counted else None


async def _evidence(
    spec: SearchSpec,
    evaluation: Evaluation,
    task: SearchTask,
    examples: Sequence[Example],
    first: Measured,
    second: Measured,
    seed: Measured | None,
) -> TaskEvidence:
    before, after = first.rollouts[task.name], second.rollouts[task.name]
    audit = None
    if task.by_model and evaluation.has("audit_judge"):
        seconds = [
            await evaluation.judge(task, examples, [r.text for r in arm], role="audit_judge") for arm in (before, after)
        ]
        audit = Paired(*(np.array([_number(v.score) for v in verdicts]) for verdicts in seconds))
    scores = Paired(_array(before), _array(after))
    return TaskEvidence(
        name=task.name,
        scores=scores,
        ids=[example.id for example in examples],
        clusters=[example.cluster or example.id for example in examples],
        weights=np.array([example.weight for example in examples]),
        audit=audit,
        seed_scores=_seed_scores(spec, task, first, seed),
        answer_tokens=Paired(*(np.array([float(r.tokens_out) for r in arm]) for arm in (before, after))),
        valid_format=Paired(*(np.array([float(not r.malformed) for r in arm]) for arm in (before, after))),
    )


def _seed_scores(spec: SearchSpec, task: SearchTask, first: Measured, seed: Measured | None) -> np.ndarray | None:
    """How the prompt that the domain began with did: the incumbent's scores where it is the incumbent."""
    if seed is not None:
        return _array(seed.rollouts[task.name])
    return _array(first.rollouts[task.name]) if spec.seed_prompt == first.arm.system else None


def _array(rollouts: Sequence[Rollout]) -> np.ndarray:
    return np.array([_number(rollout.score) for rollout in rollouts])


def _number(score: float | None) -> float:
    return math.nan if score is None else score


def _tokens(prompt: str) -> int:
    return math.ceil(len(prompt) / CHARACTERS_PER_TOKEN)


def _lint_hits(spec: SearchSpec, incumbent: Arm, winner: Arm) -> int:
    """How often the linter objects to what is new in the winner."""
    if winner.system == incumbent.system:
        pairs = [(winner.user_prompts[t.name], t.user_prompt) for t in spec.sources]
        return sum(len(lint(new, incumbent=old, slot=True)) for new, old in pairs)
    own_words = [way for c in corpus_for(spec.sources).components for way in (c.text, *c.variants)]
    labels = [label for task in spec.sources for label in task.judge.labels]
    return len(lint(winner.system, incumbent=incumbent.system, allow=[*own_words, *labels]))


def _cost(spec: SearchSpec, first: Measured, second: Measured) -> tuple[float, float] | None:
    """USD per request of both arms, None where the price is not known or zero."""
    base = spec.models.base
    if not base.price_in and not base.price_out:
        return None

    def usd(arm: Measured) -> float:
        rows = [rollout for rollouts in arm.rollouts.values() for rollout in rollouts]
        total = sum(r.tokens_in * (base.price_in or 0.0) + r.tokens_out * (base.price_out or 0.0) for r in rows)
        return total / 1e6 / max(1, len(rows))

    return usd(first), usd(second)
