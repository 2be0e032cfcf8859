"""Means go over seeds first, then over tasks: one that has more seeds weighs no more than the others."""

from __future__ import annotations

from itertools import product

import pytest

from optimizer.paper.figures import figures
from optimizer.paper.raw import Step
from optimizer.paper.robustness import robustness
from optimizer.paper.shown import Shown, mean_curve, per_run
from optimizer.paper.tables import cost, other_bases, source_counts
from tests.optimizer.paper.world import row


def test_robustness_weighs_tasks_alike_however_many_seeds_they_have() -> None:
    rows = [
        row(user_prompt_scores=(0.5, 0.5), answers=60),
        row(name="dental", user_prompt_scores=(0.5, 0.5), answers=60),
        row("metaspo", seed=1, user_prompt_scores=(0.9, 0.9), answers=60),
        row("metaspo", seed=2, user_prompt_scores=(0.9, 0.1), answers=60),
        row("metaspo", name="dental", user_prompt_scores=(0.1, 0.3), answers=60),
    ]
    found = robustness(rows)
    assert found is not None
    _, (label, prompts, worst, mean, best, better) = found.rows
    assert (label, prompts, worst, best) == ("MetaSPO (ours)", 4, 0.1, 0.9)
    assert mean == pytest.approx((0.7 + 0.2) / 2)
    assert isinstance(better, Shown) and better.score == pytest.approx((0.75 + 0.0) / 2)
    assert (better.n, better.seeds) == (4, 1)


def test_seeds_under_other_user_prompts_are_not_compared_with_default() -> None:
    rows = [
        row(user_prompt_scores=(0.5, 0.5), answers=60),
        row("cot", user_prompt_scores=(0.9,), answers=60),
        row("metaspo", user_prompt_scores=(0.9, 0.9), user_prompts_sha256="others", answers=60),
    ]
    found = robustness(rows)
    assert found is not None and [line[-1] for line in found.rows] == [None, None, None]


def test_the_cost_of_a_run_weighs_domains_alike_however_many_seeds_they_have() -> None:
    uneven = [
        row(
            "metaspo", name=name, seed=seed, base_calls=100 * seed, optimizer_calls=10, wall_seconds=50, prompt_tokens=8
        )
        for name, seed in product(("anatomy", "dental"), (1, 2, 3))
    ]
    uneven += [
        row("metaspo", name="pet", domain="reviews", base_calls=400, optimizer_calls=30, wall_seconds=150,
            prompt_tokens=16)
    ]  # fmt: skip
    found = cost(uneven)
    assert found is not None and found.columns[:4] == ("method", "domains", "runs", "base calls")
    ((_, domains, runs, calls, _, optimizer_calls, seconds, tokens, _, _),) = found.rows
    assert (domains, runs, calls, optimizer_calls, seconds, tokens) == (2, 4, 300, 20, 100, 12)
    assert "characters divided by four" in found.note
    both = [row(scope="global", base_calls=7), row(scope="global", domain="reviews", seed=2, base_calls=8)]
    assert per_run(both, lambda run: run.base_calls) == 7.5


def test_the_figure_of_calls_weighs_domains_alike() -> None:
    once = [row("metaspo", base_calls=100), row("metaspo", name="pet", domain="reviews", base_calls=400)]
    again = [*once, row("metaspo", seed=2, base_calls=100)]
    assert figures(again)["score_against_calls"] == figures(once)["score_against_calls"]


def test_a_curve_weighs_tasks_alike_and_stays_where_it_ended() -> None:
    steps = (Step(calls=0, test=0.2), Step(calls=10, test=0.4))
    early = (Step(calls=0, test=1.0),)
    rows = [row(adapted=True, seed=seed, curve=steps) for seed in (1, 2, 3)]
    rows += [row(adapted=True, name="dental", curve=early), row(adapted=True, name="pet", curve=(Step(calls=0),))]
    points = mean_curve(rows)
    assert [x for x, _ in points] == [0.0, 5.0] and [y for _, y in points] == pytest.approx([0.6, 0.7])


def test_counts_of_source_tasks_leave_other_base_models_and_other_tasks_out() -> None:
    rows = [
        row("metaspo", score=0.6),
        row("metaspo", name="dental", score=0.4),
        row("metaspo", sources=1, score=0.3),
        row("metaspo", sources=2, score=0.3),
        row("metaspo", sources=2, name="dental", score=0.3),
        row("metaspo", score=0.0, base_model="other", found_on="small"),
    ]
    found = source_counts(rows)
    assert found is not None
    one, two, every = (line[1] for line in found.rows)
    assert one is None, "it lacks a task that the others have"
    assert isinstance(two, Shown) and isinstance(every, Shown) and (two.score, every.score) == (0.3, 0.5)
    bases = other_bases(rows)
    assert bases is not None and bases.rows[0][1:] == (every, None)
