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
        f1 = macro_f1(pairs, judge.labels)
        half_low, half_high = interval.score - interval.low, interval.high - interval.score
        interval = Interval(score=f1, low=max(0.0, f1 - half_low), high=min(1.0, f1 + half_high), n=interval.n)
    return TaskScore(
        interval=interval,
        malformed=sum(rollout.malformed for rollout in rollouts) / total,
        unscored=sum(rollout.score is None for rollout in rollouts) / total,
        truncated=sum(rollout.finish == "length" for rollout in rollouts) / total,
    )


def mean_interval(scores: Sequence[float], *, clusters: Sequence[str] = (), weights: Sequence[float] = ()) -> Interval:
    """Weighted mean of scores in 0..1 with a 95 % interval, standard error clustered (Miller, arXiv 2411.00640, eq.
    4)."""
    n = len(scores)
    if n == 0:
        return Interval(score=0.0, low=0.0, high=1.0, n=0)
    weight = weights or [1.0] * n
    total = math.fsum(weight)
    mean = math.fsum(w * s for w, s in zip(weight, scores, strict=True)) / total
    sums: dict[str, float] = defaultdict(float)
    for index, score in enumerate(scores):
        sums[clusters[index] if clusters else str(index)] += weight[index] * (score - mean)
    groups = len(sums)
    correction = groups / (groups - 1) if groups > 1 else 1.0
    variance = correction * math.fsum(value * value for value in sums.values()) / total**2
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
    scores: list[float] = []
    folded = [(gold.casefold(), predicted.casefold()) for gold, predicted in pairs]
    for label in (label.casefold() for label in labels):
        hit = sum(gold == label == predicted for gold, predicted in folded)
        given = sum(predicted == label for _, predicted in folded)
        asked = sum(gold == label for gold, _ in folded)
        if given + asked:
            scores.append(2 * hit / (given + asked))
    return math.fsum(scores) / len(scores) if scores else 0.0


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
