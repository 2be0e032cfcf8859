"""Races: cells in turn over tasks, paired differences, losers dropped, ties to the earlier."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from optimizer.records import Rollout
from optimizer.steps.archive import Archive
from optimizer.steps.racing import Cell, Rung, Scoreboard, course, difference, full_course, price, race
from tests.optimizer.scripted import task


def world_of(truth: dict[str, float], seed: int = 1):
    """Answers cells under a prompt that is right with its own probability; each cell has the same luck for all."""
    asked: list[tuple[str, int]] = []

    async def respond(prompt: str, cells: Sequence[Cell]) -> list[Rollout]:
        asked.append((prompt, len(cells)))
        luck = [random.Random(f"{seed}{cell.key}").random() for cell in cells]
        return [
            Rollout(example_id=c.example.id, text="", score=float(u < truth[prompt]))
            for c, u in zip(cells, luck, strict=True)
        ]

    return respond, asked


TASKS = (task("a"), task("b"))
OWN = {t.name: (t.user_prompt,) for t in TASKS}


def cells(length: int = 80, start: int = 0) -> list[Cell]:
    return course(TASKS, OWN, start=start, seed=3, length=length)


def test_a_course_goes_round_the_tasks_and_uses_each_example_once() -> None:
    run = cells(60)
    assert [cell.task.name for cell in run] == ["a", "b"] * 30
    assert len({cell.key for cell in run}) == 60
    assert {cell.example.id for cell in cells(20)} & {cell.example.id for cell in cells(20, start=20)} == set()


def test_several_user_prompts_cost_no_more_cells() -> None:
    prompts = {"a": ("one {question}", "two {question}"), "b": ("only {question}",)}
    run = course(TASKS, prompts, start=0, seed=3, length=40)
    used = [cell.user_prompt for cell in run if cell.task.name == "a"]
    assert used.count("one {question}") == used.count("two {question}") == 10
    assert len(full_course(TASKS, prompts, 5)) == 15


async def test_losers_are_dropped_and_the_better_wins() -> None:
    truth = {"base": 0.5, "good": 0.95, "bad": 0.05, "same": 0.5}
    respond, asked = world_of(truth)
    rungs = [Rung(cells=20, keep=4), Rung(cells=40, keep=2), Rung(cells=80, keep=1)]
    outcome = await race(respond, list(truth), cells(), rungs, Scoreboard())
    assert outcome.winner == "good"
    assert outcome.fates["bad"].startswith("lost to the leader after 20")
    assert sum(n for prompt, n in asked if prompt == "bad") == 20
    assert sum(n for _, n in asked) < 4 * 80


async def test_ties_keep_the_earlier() -> None:
    respond, _ = world_of({"first": 0.6, "other": 0.6})
    outcome = await race(respond, ["first", "other"], cells(), [Rung(cells=80, keep=1)], Scoreboard())
    assert outcome.winner == "first"


async def test_length_costs() -> None:
    longer = "same " * 200
    respond, _ = world_of({longer: 0.6, "same": 0.6})
    outcome = await race(respond, [longer, "same"], cells(), [Rung(cells=80, keep=1)], Scoreboard())
    assert outcome.winner == "same"
    assert price(longer) == pytest.approx(0.0125)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=3, max_size=40))
def test_the_difference_is_the_paired_t_test_but_for_its_caution(values: list[float]) -> None:
    d = difference({"t": values})
    n = len(values)
    assert d.mean == pytest.approx(sum(values) / n)
    expected = math.sqrt((float(np.var(values)) * n + 0.25) / (n - 1) / n)
    assert d.se == pytest.approx(expected)
    spread = float(np.std(values, ddof=1))
    if d.significant() and spread > 0:
        assert stats.t.sf(d.mean / (spread / math.sqrt(n)), n - 1) < 0.05


def test_a_few_equal_differences_prove_nothing() -> None:
    assert not difference({"t": [1.0]}).significant()
    assert difference({}).se == math.inf


def test_unscored_cells_leave_the_pair_out() -> None:
    board = Scoreboard()
    run = cells(4)
    board.put("x", run, [Rollout(example_id="", text="", score=s) for s in (1.0, None, 1.0, 0.0)])
    board.put("y", run, [Rollout(example_id="", text="", score=s) for s in (0.0, 1.0, None, 0.0)])
    assert board.compare("x", "y").mean == pytest.approx(0.5)  # task a: one pair of +1, task b: one pair of 0
    assert board.mean("x") == (pytest.approx(0.5), 3)


def test_the_archive_keeps_who_is_best_somewhere() -> None:
    board = Scoreboard()
    run = cells(40)
    scores = {"even": (0.6, 0.6), "a only": (1.0, 0.1), "worse": (0.5, 0.5)}
    for prompt, (on_a, on_b) in scores.items():
        given = {"a": on_a, "b": on_b}
        board.put(prompt, run, [Rollout(example_id="", text="", score=given[c.task.name]) for c in run])
    archive = Archive(board)
    for prompt in scores:
        archive.add(prompt)
    assert archive.best == "even"
    assert set(archive.front()) == {"even", "a only"}
    assert archive.parents(2) == ["even", "a only"]
    assert archive.finalists(2) == ["even", "a only"]
