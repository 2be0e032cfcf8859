"""From rollouts to a task's score with its interval.

A task's score is the weighted mean of its scored rollouts, or macro-F1 over the fixed label set. Unscored rollouts
are left out and counted. Intervals are Wilson's, at the effective sample size that the clustered standard error
implies, so they stay inside 0..1 and do not collapse when every answer is right.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from optimizer.records import Example, Interval, JudgeSpec, Rollout, SplitScores, TaskScore

_Z = 1.959963984540054
_MOST_INFORMATIVE = 10.0
"""One graded answer counts at most as much as so many right-or-wrong ones: keeps the interval of a constant score
open."""


def task_score(judge: JudgeSpec, examples: Sequence[Example], rollouts: Sequence[Rollout]) -> TaskScore:
    """The score of one task on ``rollouts``, one per example, in order. No rollout at all scores 0 with n = 0."""
    total = len(rollouts)
    if total == 0:
        return TaskScore(interval=Interval(score=0.0, low=0.0, high=1.0, n=0))
    scored = [
        (example, rollout.score)
        for example, rollout in zip(examples, rollouts, strict=True)
        if rollout.score is not None
    ]
    interval = mean_interval(
        [score for _, score in scored],
        clusters=[example.cluster or example.id for example, _ in scored],
        weights=[example.weight for example, _ in scored],
    )
    if judge.kind == "macro_f1":
        pairs = [
            (example.answers[0] if example.answers else "", "" if rollout.malformed else rollout.answer)
            for example, rollout in zip(examples, rollouts, strict=True)
            if rollout.score is not None
        ]
        interval = macro_f1_interval(pairs, judge.labels, [example.cluster or example.id for example, _ in scored])
    return TaskScore(
        interval=interval,
        malformed=sum(rollout.malformed for rollout in rollouts) / total,
        unscored=sum(rollout.score is None for rollout in rollouts) / total,
        truncated=sum(rollout.finish == "length" for rollout in rollouts) / total,
    )


def mean_interval(scores: Sequence[float], *, clusters: Sequence[str] = (), weights: Sequence[float] = ()) -> Interval:
    """Weighted mean of scores in 0..1 with a 95 % interval, its standard error clustered (Miller, arXiv 2411.00640)."""
    n = len(scores)
    if n == 0:
        return Interval(score=0.0, low=0.0, high=1.0, n=0)
    weight = weights or [1.0] * n
    total = math.fsum(weight)
    mean = math.fsum(w * s for w, s in zip(weight, scores, strict=True)) / total
    sums: dict[str, float] = defaultdict(float)
    for index, score in enumerate(scores):
        sums[clusters[index] if clusters else str(index)] += weight[index] * (score - mean)
    return _interval(mean, [value / total for value in sums.values()], n)


def macro_f1_interval(pairs: Sequence[tuple[str, str]], labels: Sequence[str], clusters: Sequence[str]) -> Interval:
    """Macro-F1 of (gold, predicted) pairs with a 95 % interval, its standard error linearised and clustered.

    With F = 2 TP / D and D = 2 TP + FP + FN, one item moves a label's F by (2 tp - F (2 tp + fp + fn)) / D.
    """
    folded = [(gold.casefold(), predicted.casefold()) for gold, predicted in pairs]
    scores = {label: f1 for label in (name.casefold() for name in labels) if (f1 := _f1(folded, label)) is not None}
    if not scores:
        return Interval(score=0.0, low=0.0, high=1.0, n=len(pairs))
    moves: dict[str, float] = defaultdict(float)
    for label, f1 in scores.items():
        weight = 1.0 / len(scores) / sum((gold == label) + (predicted == label) for gold, predicted in folded)
        for (gold, predicted), cluster in zip(folded, clusters, strict=True):
            hit, share = gold == label == predicted, (gold == label) + (predicted == label)
            moves[cluster] += weight * (2 * hit - f1 * share)
    return _interval(math.fsum(scores.values()) / len(scores), list(moves.values()), len(pairs))


def _interval(mean: float, moves: Sequence[float], n: int) -> Interval:
    """The interval of a statistic in 0..1 that each cluster moves by ``moves`` (they add up to 0): Wilson's, at the
    number of independent draws that would give the same standard error."""
    groups = len(moves)
    correction = groups / (groups - 1) if groups > 1 else 1.0
    variance = correction * math.fsum(move * move for move in moves)
    spread = mean * (1 - mean)
    effective = float(groups) if variance <= 0 or spread <= 0 else min(spread / variance, groups * _MOST_INFORMATIVE)
    low, high = wilson(mean, max(1.0, effective))
    return Interval(score=mean, low=low, high=high, n=n)


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share seen in ``n`` (effective) draws."""
    squared = _Z * _Z
    centre = (share + squared / (2 * n)) / (1 + squared / n)
    half = _Z / (1 + squared / n) * math.sqrt(share * (1 - share) / n + squared / (4 * n * n))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def macro_f1(pairs: Sequence[tuple[str, str]], labels: Sequence[str]) -> float:
    """Mean F1 over the fixed ``labels`` of (gold, predicted) pairs.

    A prediction outside the set counts as a miss of its gold label and adds no class of its own; a label that is
    neither asked for nor given is left out of the mean.
    """
    folded = [(gold.casefold(), predicted.casefold()) for gold, predicted in pairs]
    scores = [f1 for label in labels if (f1 := _f1(folded, label.casefold())) is not None]
    return math.fsum(scores) / len(scores) if scores else 0.0


def _f1(folded: Sequence[tuple[str, str]], label: str) -> float | None:
    """F1 of one label; None when nobody asked for it or gave it."""
    hit = sum(gold == label == predicted for gold, predicted in folded)
    named = sum((gold == label) + (predicted == label) for gold, predicted in folded)
    return 2 * hit / named if named else None


def split_scores(tasks: Mapping[str, TaskScore]) -> SplitScores:
    """Scores per task with their plain mean. The mean's interval adds the tasks' squared half-widths: tasks are the
    fixed set that is served, not a sample of all tasks."""
    some = [score.interval for score in tasks.values() if score.interval.n]
    if not some:
        return SplitScores(tasks=dict(tasks))
    count = len(some)
    mean = math.fsum(interval.score for interval in some) / count
    below = math.sqrt(math.fsum((interval.score - interval.low) ** 2 for interval in some)) / count
    above = math.sqrt(math.fsum((interval.high - interval.score) ** 2 for interval in some)) / count
    interval = Interval(
        score=mean, low=max(0.0, mean - below), high=min(1.0, mean + above), n=sum(interval.n for interval in some)
    )
    return SplitScores(tasks=dict(tasks), mean=interval)
