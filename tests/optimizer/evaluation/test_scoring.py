"""Scores and intervals: macro-F1 over fixed labels, clustered errors, intervals that stay inside 0..1."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.evaluation.scoring import macro_f1, macro_f1_interval, mean_interval, split_scores, task_score, wilson
from optimizer.records import Example, JudgeSpec, Rollout

YES_NO = JudgeSpec(kind="macro_f1", labels=("yes", "no"))


def example(number: int, answer: str = "yes", cluster: str = "") -> Example:
    return Example(id=str(number), question="?", answers=(answer,), cluster=cluster)


def test_one_malformed_answer_adds_no_class() -> None:
    pairs = [("yes", "yes")] * 45 + [("no", "no")] * 45 + [("yes", "no")] * 5 + [("no", "yes")] * 5
    assert macro_f1(pairs, ("yes", "no")) == pytest.approx(0.90)
    pairs[0] = ("yes", "no idea")
    assert macro_f1(pairs, ("yes", "no")) == pytest.approx(0.895, abs=0.01)


def test_the_interval_of_macro_f1_covers_the_truth() -> None:
    rng = random.Random(20261120)

    def draw(n: int) -> list[tuple[str, str]]:
        golds = ["yes" if rng.random() < 0.7 else "no" for _ in range(n)]
        return [(gold, gold if rng.random() < 0.8 else rng.choice(["yes", "no", "eh"])) for gold in golds]

    truth = macro_f1(draw(200_000), ("yes", "no"))
    covered = 0
    for _ in range(600):
        pairs = draw(120)
        interval = macro_f1_interval(pairs, ("yes", "no"), [str(i) for i in range(120)])
        assert interval.score == pytest.approx(macro_f1(pairs, ("yes", "no")))
        covered += interval.low <= truth <= interval.high
    assert 555 <= covered <= 590


def test_malformed_answers_are_reported_apart() -> None:
    examples = [example(i, "yes" if i % 2 else "no") for i in range(100)]
    rollouts = [
        Rollout(example_id=e.id, text="", score=float(i >= 10), answer=e.answers[0], malformed=i < 10)
        for i, e in enumerate(examples)
    ]
    score = task_score(YES_NO, examples, rollouts)
    assert score.malformed == 0.1
    assert 0.9 < score.interval.score < 1.0


def test_unscored_rollouts_are_left_out_and_counted() -> None:
    examples = [example(i) for i in range(4)]
    rollouts = [Rollout(example_id=str(i), text="", score=None if i == 0 else 1.0) for i in range(4)]
    score = task_score(JudgeSpec(kind="exact"), examples, rollouts)
    assert (score.interval.score, score.interval.n, score.unscored) == (1.0, 3, 0.25)
    empty = task_score(JudgeSpec(kind="exact"), [], [])
    assert (empty.interval.n, empty.interval.low, empty.interval.high) == (0, 0.0, 1.0)


def test_clusters_widen_the_interval() -> None:
    scores = [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0] * 5
    apart = mean_interval(scores)
    together = mean_interval(scores, clusters=[str(i // 4) for i in range(40)])
    assert together.high - together.low > 1.5 * (apart.high - apart.low)


def test_all_right_is_not_certain() -> None:
    interval = mean_interval([1.0] * 20)
    assert interval.high == 1.0
    assert 0.8 < interval.low < 0.9


def test_wilson_matches_the_textbook() -> None:
    low, high = wilson(0.5, 100)
    assert (round(low, 3), round(high, 3)) == (0.404, 0.596)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = random.Random(20261120)
    covered = 0
    for _ in range(1000):
        interval = mean_interval([float(rng.random() < 0.85) for _ in range(50)])
        covered += interval.low <= 0.85 <= interval.high
    assert 930 <= covered <= 975


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_intervals_hold_the_mean_and_stay_in_range(scores: list[float]) -> None:
    interval = mean_interval(scores)
    assert 0.0 <= interval.low <= interval.score + 1e-12
    assert interval.score - 1e-12 <= interval.high <= 1.0


def test_the_mean_over_tasks_weighs_tasks_equally() -> None:
    exact = JudgeSpec(kind="exact")

    def score(right: int, n: int) -> object:
        rollouts = [Rollout(example_id=str(i), text="", score=float(i < right)) for i in range(n)]
        return task_score(exact, [example(i) for i in range(n)], rollouts)

    both = split_scores({"a": score(10, 10), "b": score(0, 90)})  # type: ignore[dict-item]
    assert both.mean is not None
    assert both.mean.score == 0.5
    assert both.mean.n == 100
    assert split_scores({}).mean is None
