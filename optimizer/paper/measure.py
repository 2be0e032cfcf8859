"""A system prompt measured on one task's test rows, under one or several user prompts: the same way for every method.

Each question is asked under every user prompt (``all``, as published) or each under one of them in turn (``rotate``:
the mean over prompts at a fraction of the calls). Replies to the same request are paid for once, whoever asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean

from optimizer.errors import DataError
from optimizer.evaluation.evaluation import Evaluation
from optimizer.evaluation.scoring import task_score
from optimizer.judges.answers import tagged
from optimizer.models import Backend
from optimizer.paper.catalogue import Quirk
from optimizer.paper.quirks import published_score
from optimizer.records import Example, ModelRole, Models, Rollout, SearchSpec, SearchTask, TaskScore

Backends = Mapping[ModelRole, Backend] | None
Pair = tuple[Example, int]
"""A question and the number of the user prompt that it is asked under."""
JOURNAL_SEED = 42
"""One journal per task and base model, whatever the seed of the search."""


@dataclass(frozen=True)
class Measured:
    """The score over all (question, user prompt) pairs, and what is beside it.

    ``clusters`` numbers the group of near-duplicates of each question of ``per_question``. ``untagged`` is the share of
    replies without answer tags: read whole here, wrong by the published metrics; None where those read all whole.
    """

    score: TaskScore
    by_prompt: tuple[float, ...]
    per_question: tuple[float | None, ...]
    clusters: tuple[int, ...]
    published: float | None
    untagged: float | None
    questions: int
    answers: int
    judge_calls: int
    fresh_calls: int


def pairs_of(examples: Sequence[Example], prompts: int, ask: str) -> list[Pair]:
    """Which question is asked under which user prompt, prompt by prompt."""
    if ask == "rotate":
        return [(e, number) for number in range(prompts) for e in examples[number::prompts]]
    return [(example, number) for number in range(prompts) for example in examples]


async def measure(
    models: Models,
    task: SearchTask,
    system: str,
    prompts: Sequence[str],
    *,
    ask: str,
    quirk: Quirk,
    home: Path,
    clock: Callable[[], float],
    backends: Backends = None,
    examples: Sequence[Example] | None = None,
) -> Measured:
    """``system`` on ``examples`` (the task's test rows by default). Raises ``OptimizerError`` as a search does."""
    rows = task.holdout if examples is None else examples
    if not rows:
        raise DataError(f"The task {task.name} has no row to be measured on.")
    pairs = pairs_of(rows, len(prompts), ask)
    async with Evaluation.open(journal_spec(models, task, home), clock=clock, backends=backends) as evaluation:
        rollouts: list[Rollout] = []
        for number, group in groupby(pairs, key=lambda pair: pair[1]):
            asked = [example for example, _ in group]
            rollouts += await evaluation.rollouts(system, task, prompts[number], asked)
        ledger = evaluation.ledger
        evaluation.finished()
    judge = ledger.roles.get("judge")
    return summed(
        task,
        pairs,
        rollouts,
        quirk,
        judge_calls=judge.requested if judge else 0,
        fresh=sum(row.paid - row.replayed for row in ledger.roles.values()),
    )


def journal_spec(models: Models, task: SearchTask, home: Path) -> SearchSpec:
    """The spec whose journal holds every measurement of ``task`` with these models."""
    return SearchSpec(
        seed_prompt="",
        tasks=(task,),
        models=Models(base=models.base, judge=models.judge),
        method="default",
        seed=JOURNAL_SEED,
        home=home,
        resume=True,
    )


def constant_answer(task: SearchTask, quirk: Quirk) -> tuple[Measured, str]:
    """What the most frequent answer of the test rows scores, whatever is asked, and that answer. Calls no model."""
    counted = Counter(example.answers[0] for example in task.holdout if example.answers)
    if not counted or task.by_model:
        raise DataError(f"The task {task.name} is scored by a judge: no answer fits all of its questions.")
    answer = counted.most_common(1)[0][0]
    folded = answer.casefold()
    rollouts = [
        Rollout(
            example_id=example.id,
            text=f"<answer>{answer}</answer>" if quirk != "squad_whole" else answer,
            score=float(any(folded == right.casefold() for right in example.answers)),
            answer=answer,
        )
        for example in task.holdout
    ]
    return summed(task, [(example, 0) for example in task.holdout], rollouts, quirk), answer


def summed(
    task: SearchTask,
    pairs: Sequence[Pair],
    rollouts: Sequence[Rollout],
    quirk: Quirk,
    *,
    judge_calls: int = 0,
    fresh: int = 0,
) -> Measured:
    """The measured score of ``rollouts``, one per pair; the interval counts a question's replies as one cluster."""
    by_prompt = []
    numbers = [number for _, number in pairs]
    for number in sorted(set(numbers)):
        chosen = [place for place, of in enumerate(numbers) if of == number]
        part = task_score(task.judge, [pairs[place][0] for place in chosen], [rollouts[place] for place in chosen])
        by_prompt.append(part.interval.score)
    questions, per_question = _per_question(task, pairs, rollouts)
    return Measured(
        score=task_score(task.judge, [example for example, _ in pairs], rollouts),
        by_prompt=tuple(by_prompt),
        per_question=per_question,
        clusters=_clusters(questions),
        published=published_score(quirk, [example.answers for example, _ in pairs], [r.text for r in rollouts]),
        untagged=None if quirk == "squad_whole" else fmean(tagged(rollout.text) is None for rollout in rollouts),
        questions=len(questions),
        answers=len(rollouts),
        judge_calls=judge_calls,
        fresh_calls=fresh,
    )


def _per_question(
    task: SearchTask, pairs: Sequence[Pair], rollouts: Sequence[Rollout]
) -> tuple[list[Example], tuple[float | None, ...]]:
    """The questions in the order of the task's rows, and each one's mean score over its user prompts."""
    scores: dict[str, list[float]] = {}
    for (example, _), rollout in zip(pairs, rollouts, strict=True):
        scores.setdefault(example.id, []).extend([] if rollout.score is None else [rollout.score])
    places = {example.id: place for place, example in enumerate(task.holdout)}
    examples = {example.id: example for example, _ in pairs}
    asked = sorted(scores, key=lambda name: places.get(name, len(places)))
    return [examples[name] for name in asked], tuple(fmean(scores[name]) if scores[name] else None for name in asked)


def _clusters(questions: Sequence[Example]) -> tuple[int, ...]:
    """The number of each question's group of near-duplicates, counted as they come."""
    numbers: dict[str, int] = {}
    return tuple(numbers.setdefault(question.cluster or question.id, len(numbers)) for question in questions)
