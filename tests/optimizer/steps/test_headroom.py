"""Do prompts matter here: asked first, for a bounded share of the budget, and denied only on evidence."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from optimizer.estimate import estimate
from optimizer.proposals.components import corpus_for
from optimizer.records import Budget, Event, Request, Rollout
from optimizer.report import estimate_page, result_page
from optimizer.search import search
from optimizer.steps.headroom import (
    CELLS,
    SHARE,
    Headroom,
    ask,
    cells_for,
    diverse,
    equal_means,
    most_calls,
    no_headroom,
    score_table,
)
from optimizer.steps.plan import plan_for
from optimizer.steps.racing import Cell, Scoreboard, course
from optimizer.worlds.world import SEED_PROMPT, World, WorldBackend, WorldSettings, world_tasks
from tests.optimizer.scripted import Scripted, spec_of, task


async def asked_in(world: WorldSettings, bound: int = CELLS) -> Headroom:
    """The check in one world, its replies judged by hand."""
    backend = WorldBackend(World(world))
    tasks = tuple(t for t in world_tasks(world) if t.role == "source")
    cells = course(tasks, {t.name: (t.user_prompt,) for t in tasks}, start=0, seed=world.seed, length=2 * bound)

    async def respond(prompt: str, block: Sequence[Cell]) -> list[Rollout]:
        found = []
        for cell in block:
            user = cell.user_prompt.replace("{question}", cell.example.question)
            text = backend.answer(Request(role="base", messages=(("system", prompt), ("user", user))))
            found.append(Rollout(example_id=cell.example.id, text=text, score=float(text == cell.example.answers[0])))
        return found

    return await ask(respond, diverse(SEED_PROMPT, corpus_for(tasks), world.seed), cells, bound)


async def test_where_prompts_matter_it_seldom_says_no() -> None:
    found = [await asked_in(WorldSettings(tasks=4, seed=seed)) for seed in range(1, 61)]
    assert sum(one.outcome == "none" for one in found) <= 3
    assert sum(one.outcome == "seen" for one in found) >= 30
    assert sum(one.answers for one in found) / len(found) < 420  # most stop before the bound


async def test_where_no_prompt_matters_it_mostly_says_so_for_less_than_its_share() -> None:
    found = [await asked_in(WorldSettings(tasks=4, null=True, seed=seed)) for seed in range(1, 61)]
    assert sum(one.outcome == "none" for one in found) >= 12
    assert sum(one.outcome == "seen" for one in found) <= 18
    assert max(one.answers for one in found) <= most_calls(CELLS) <= SHARE * 6000


def test_ten_very_different_prompts() -> None:
    prompts = diverse("Be brief.", corpus_for((task(),)), 7)
    assert len(set(prompts)) == 10
    assert prompts[0] == "Be brief."
    assert all(prompt.startswith("Be brief. ") for prompt in prompts[1:])
    assert prompts == diverse("Be brief.", corpus_for((task(),)), 7)
    words = [set(prompt.split()) for prompt in prompts[1:]]
    assert max(len(a & b) / len(a | b) for i, a in enumerate(words) for b in words[:i]) < 0.5
    assert len(diverse("", corpus_for((task(),)), 7)[1].split()) > 50


@pytest.mark.parametrize("calls", [60, 900, 1200, 3000, 5760, 6000, 12_000, 60_000])
@pytest.mark.parametrize("tasks", [1, 3, 4, 7])
def test_its_share_is_bounded(calls: int, tasks: int) -> None:
    cells = cells_for(calls, tasks, available=240)
    assert most_calls(cells) <= SHARE * calls
    assert cells in (0, 10) or cells >= CELLS
    assert cells_for(calls, tasks, available=60) in (0, 10)
    assert cells_for(6000, tasks, available=240) >= CELLS


async def test_no_headroom_costs_no_optimizer_call_and_is_counted(tmp_path: Path) -> None:
    told: list[Event] = []
    base, optimizer = Scripted(lambda _: "yes", "base"), Scripted(lambda _: "{}", "optimizer")
    spec = spec_of(tmp_path, (task(), task("t1")), budget=Budget(calls=2000))
    result = await search(spec, clock=time.time, on_event=told.append, backends={"base": base, "optimizer": optimizer})
    assert result.winner == spec.seed_prompt
    assert "No headroom: 10 very different prompts" in result.reason
    assert "headroom_cells: 0" in result.reason
    assert not optimizer.requests
    assert not result.generations
    assert 0 < result.ledger.headroom <= SHARE * 2000
    assert f"{result.ledger.headroom:,} of these calls" in result_page(result)
    (event,) = [event for event in told if event.kind == "headroom"]
    assert event.data["calls"] == result.ledger.headroom


async def test_an_operator_may_search_all_the_same(tmp_path: Path) -> None:
    optimizer = Scripted(lambda _: "{}", "optimizer")
    options = {"headroom_cells": 0}
    spec = spec_of(tmp_path, (task(), task("t1")), budget=Budget(calls=2000), options=options)
    result = await search(
        spec, clock=time.time, backends={"base": Scripted(lambda _: "yes", "base"), "optimizer": optimizer}
    )
    assert "No headroom" not in result.reason
    assert optimizer.requests
    assert result.ledger.headroom == 0


def test_the_plan_and_the_estimate_say_what_it_may_cost(tmp_path: Path) -> None:
    world = WorldSettings(tasks=4)
    spec = replace_tasks(tmp_path, world)
    plan = plan_for(spec)
    assert plan.headroom_cells == CELLS
    assert any("headroom: 10 prompts on 48 examples, at most 576 answers" in line for line in plan.lines())
    page = estimate_page(estimate(spec))
    assert "Up to 576 base calls ask whether prompts matter here at all." in page


def replace_tasks(home: Path, world: WorldSettings):
    return spec_of(home, world_tasks(replace(world, unseen=2)), budget=Budget(calls=7000))


# --- the evidence of the races ---------------------------------------------------------------------------------------


def test_equal_means_is_the_two_way_analysis_of_variance() -> None:
    rng = np.random.default_rng(5)
    table = rng.normal(size=(4, 30)) + np.array([[0], [0.1], [0.2], [0.9]])
    rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    f = (30 * ((table.mean(1) - table.mean()) ** 2).sum() / 3) / ((rest**2).sum() / 87)
    assert equal_means([table]) == pytest.approx(float(stats.f.sf(f, 3, 87)))
    assert equal_means([np.ones((3, 5))]) == equal_means([]) == 1.0
    assert equal_means([np.array([[1.0, 1.0], [0.0, 0.0]])]) == 0.0


def fill(truth: dict[str, float], size: int, seed: int) -> tuple[Scoreboard, list[Cell]]:
    wide = (task("a", select=size), task("b", select=size))
    run = course(wide, {t.name: (t.user_prompt,) for t in wide}, start=0, seed=1, length=2 * size)
    board = Scoreboard()
    for prompt, p in truth.items():
        rng = random.Random(f"{seed}{prompt}")
        board.put(prompt, run, [Rollout(example_id="", text="", score=float(rng.random() < p)) for _ in run])
    return board, run


def test_headroom_is_denied_only_on_evidence() -> None:
    names = [f"p{i}" for i in range(10)]

    def reason(truth: dict[str, float], size: int, seed: int) -> str:
        board, run = fill(truth, size, seed)
        best = max(names, key=lambda name: board.mean(name)[0])
        return no_headroom([score_table(board, names, run)], board.compare(best, "p0"))

    equal = dict.fromkeys(names, 0.5)
    assert sum(bool(reason(equal, 80, seed)) for seed in range(20)) >= 5
    assert not any(reason(equal, 6, seed) for seed in range(20))  # too few answers to say anything
    assert not any(reason(equal | {"p3": 0.75}, 80, seed) for seed in range(20))
    assert reason(dict.fromkeys(names, 1.0), 6, 1)  # not one answer depends on the prompt
