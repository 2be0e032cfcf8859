"""Estimates: exact where the loop follows a formula, a range elsewhere, with prices and their gaps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from optimizer.estimate import estimate
from optimizer.models.prices import price_of
from optimizer.records import Budget, Example, JudgeSpec, LoopSizes, Models, ModelSpec, SearchSpec, SearchTask
from optimizer.report import estimate_page

HERE = ModelSpec(model="tiny", api_base="http://127.0.0.1:1/v1", price_in=1.0, price_out=2.0)


def task(name: str, judge: JudgeSpec, train: int = 60, test: int = 500, **more: Any) -> SearchTask:
    def rows(split: str, n: int) -> tuple[Example, ...]:
        return tuple(Example(id=f"{split}{i}", question="What? " * 20, answers=("A",), position=i) for i in range(n))

    user = "Say. {question}"
    return SearchTask(
        name=name, user_prompt=user, judge=judge, reflect=rows("r", train), holdout=rows("h", test), **more
    )


def spec(tasks: int = 4, *, judge: JudgeSpec | None = None, models: Models | None = None, **more: Any) -> SearchSpec:
    chosen = judge or JudgeSpec(kind="exact")
    return SearchSpec(
        seed_prompt="You are a helpful assistant.",
        tasks=tuple(task(f"t{i}", chosen) for i in range(tasks)),
        models=models or Models(base=HERE, optimizer=HERE, judge=HERE),
        home=Path("nowhere"),
        **more,
    )


@pytest.mark.parametrize(
    ("tasks", "more", "base", "optimizer"),
    [
        (4, {"faithful": True}, 24_200, 126),
        (16, {"faithful": True}, 96_800, 342),
        (4, {"method": "outer_loop"}, 13_000, 108),
        (2, {"faithful": True, "sizes": LoopSizes(iterations=2, train_size=10, test_size=50)}, 1_520, 60),
    ],
)
def test_the_published_loops_are_exact(tasks: int, more: dict[str, Any], base: int, optimizer: int) -> None:
    found = estimate(spec(tasks, **more))
    assert found.exact
    assert (found.base_calls, found.optimizer_calls, found.judge_calls) == (base, optimizer, 0)
    assert found.calls.low == found.calls.high == base + optimizer
    assert 0 < found.usd.low < found.usd.high


def test_small_tasks_cost_what_they_have() -> None:
    small = spec(1, faithful=True)
    rows = small.tasks[0]
    cut = SearchTask(name="s", user_prompt="{question}", reflect=rows.reflect[:10], holdout=rows.holdout[:20])
    found = estimate(SearchSpec(seed_prompt="x", tasks=(cut,), models=small.models, faithful=True))
    assert found.base_calls == 10 * (1 + 3 * (3 + 9 * 3)) + 20 * 3


def test_a_rubric_is_paid_twice_and_once_more_where_its_verdict_cannot_be_read() -> None:
    found = estimate(spec(4, judge=JudgeSpec(kind="rubric"), faithful=True))
    assert found.judge_calls == 2 * found.base_calls == 48_400
    assert found.calls.low == 2 * 24_200 + 126 and found.calls.high == 3 * 24_200 + 126
    assert "126 optimizer and at most 48,400 judge calls" in estimate_page(found)


@pytest.mark.parametrize(("method", "optimizer"), [("metaspo_ape", 63), ("metaspo_evo", 63), ("protegi", 456)])
def test_the_other_published_loops(method: str, optimizer: int) -> None:
    found = estimate(spec(4, method=method))
    assert found.optimizer_calls == optimizer
    assert found.base_calls >= (4 * 2_900 if method == "protegi" else 24_200)


def test_kept_user_prompts_grow_over_the_iterations() -> None:
    few = LoopSizes(iterations=2, train_size=10, test_size=50, user_candidates=1, user_keep=3, system_candidates=2)
    assert estimate(spec(1, faithful=True, sizes=few)).base_calls == 10 * (1 + 2 * 1 + 2 * (2 + 3)) + 3 * 50


@pytest.mark.parametrize("method", ["metaspo", "sprig", "protegi", "default"])
def test_everything_else_is_a_range_within_the_budget(method: str) -> None:
    found = estimate(spec(4, method=method, budget=Budget(calls=3000)))
    assert not found.exact
    assert 0 < found.calls.low <= found.calls.high <= 3000
    assert found.calls.high <= found.base_calls + found.optimizer_calls + found.judge_calls
    assert max(found.base_calls, found.optimizer_calls) <= 3000


def test_a_budget_in_usd_caps_the_price() -> None:
    assert estimate(spec(4, faithful=True, budget=Budget(usd=0.5))).usd.high == 0.5


def test_unknown_prices_are_said() -> None:
    unpriced = ModelSpec(model="tiny", api_base="http://127.0.0.1:1/v1")
    page = estimate_page(estimate(spec(4, models=Models(base=unpriced), faithful=True)))
    assert "No price is known for base (tiny)" in page
    assert "exactly 24,200 base, 126 optimizer" in page


def test_prices_from_the_list_and_from_the_settings() -> None:
    listed = price_of(ModelSpec(model="openai/gpt-4o-mini"))
    assert (listed.known, listed.per_million_in, listed.per_million_out) == (
        True,
        pytest.approx(0.15),
        pytest.approx(0.6),
    )
    half = price_of(ModelSpec(model="openai/gpt-4o-mini", execution="batch"))
    assert half.per_million_in == pytest.approx(0.075)
    assert not price_of(ModelSpec(model="openai/no-such-model")).known
    assert price_of(ModelSpec(model="world:latent")).known
    assert not price_of(ModelSpec(model="gpt-4o-mini", api_base="http://127.0.0.1:1/v1")).known
