"""The published algorithm and its relatives: exact counts, its selection rule, and where it may not run."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from optimizer.errors import RunBlocked
from optimizer.records import LoopSizes, Request, SearchResult, SearchSpec
from optimizer.search import search
from tests.optimizer.scripted import Scripted, never_repeats, right_answer, spec_of, task

QUIET = {"holdout_per_task": 60, "baseline_per_task": 0}


def coin(request: Request) -> str:
    """Right in about half of the cases, for good for each request."""
    return ("yes", "no")[random.Random(str(request.messages)).randrange(2)]


async def run(spec: SearchSpec, base=coin, optimizer=None) -> tuple[SearchResult, Scripted, Scripted]:
    models = Scripted(base, "base"), Scripted(optimizer or never_repeats(), "optimizer")
    result = await search(spec, clock=time.time, backends={"base": models[0], "optimizer": models[1]})
    return result, *models


def four_tasks(**more) -> tuple:
    return tuple(task(f"t{i}", reflect=40, select=60, holdout=500, **more) for i in range(4))


def requested(result: SearchResult) -> tuple[int, int]:
    return result.ledger.roles["base"].requested, result.ledger.roles["optimizer"].requested


async def test_the_published_loop_costs_exactly_what_the_formula_says(tmp_path: Path) -> None:
    result, _, _ = await run(spec_of(tmp_path, four_tasks(), faithful=True))
    assert requested(result) == (24_200, 126)
    assert len(result.generations) == 7
    tested = [c for c in result.generations[-1].candidates if c.fate == "tested"]
    assert len(tested) == 12 and {c.n for c in tested} == {500}
    assert result.gate is None and "no holdout" in result.reason


async def test_the_outer_loop_alone(tmp_path: Path) -> None:
    result, _, _ = await run(spec_of(tmp_path, four_tasks(), method="outer_loop"))
    assert requested(result) == (13_000, 108)


@pytest.mark.parametrize("method", ["metaspo_ape", "metaspo_evo"])
async def test_ablations_ask_once_per_proposal(tmp_path: Path, method: str) -> None:
    sizes = LoopSizes(iterations=2, train_size=10, test_size=20)
    result, _, _ = await run(spec_of(tmp_path, four_tasks()[:2], method=method, sizes=sizes))
    base, optimizer = requested(result)
    assert optimizer == 2 * (2 * 3 + 9)
    assert base == 2 * 10 * (1 + 2 * (3 + 9 * 3)) + 2 * 3 * 20


async def test_test_time_adaptation_of_three_tasks(tmp_path: Path) -> None:
    tasks = tuple(task(f"t{i}", reflect=40, select=60, holdout=60) for i in range(3))
    result, base, _ = await run(spec_of(tmp_path, tasks, method="protegi", options=QUIET))
    train = [r for r in base.requests if "holdout" not in r.messages[-1][1]]
    assert result.ledger.roles["optimizer"].requested == 342
    assert result.ledger.roles["base"].requested - 2 * 3 * 60 == 8_700
    assert len(train) <= 8_700
    assert result.winner == "You are a helpful assistant."
    assert all(len(prompts) == 3 for prompts in result.user_prompts.values())


async def test_ape_guesses_and_rephrases(tmp_path: Path) -> None:
    sizes = LoopSizes(train_size=20)
    result, _, optimizer = await run(spec_of(tmp_path, (task(),), method="ape", sizes=sizes, options=QUIET))
    purposes = [r.purpose for r in optimizer.requests]
    assert purposes.count("induce_user") == 6 and purposes.count("paraphrase_user") == 18
    assert all(prompt.count("{question}") == 1 for prompt in result.user_prompts["t0"])


async def test_ties_keep_the_incumbent(tmp_path: Path) -> None:
    sizes = LoopSizes(iterations=1, train_size=10, test_size=10)
    spec = spec_of(tmp_path, (task(),), faithful=True, sizes=sizes)
    result, _, _ = await run(spec, base=lambda _: "yes")  # every prompt scores the same
    assert result.winner == spec.seed_prompt
    assert {c.fate for c in result.generations[-1].candidates} == {"not better", "tested"}


async def test_nothing_wrong_asks_nothing(tmp_path: Path) -> None:
    sizes = LoopSizes(train_size=10, test_size=10)
    result, _, optimizer = await run(spec_of(tmp_path, (task(),), faithful=True, sizes=sizes), base=right_answer)
    assert not optimizer.requests
    assert result.winner == "You are a helpful assistant."


async def test_an_unreadable_reply_never_becomes_a_prompt(tmp_path: Path) -> None:
    sizes = LoopSizes(iterations=1, train_size=10, test_size=10)
    spec = spec_of(tmp_path, (task(),), faithful=True, sizes=sizes)
    result, base, _ = await run(spec, optimizer=lambda _: "I would rather talk about something else.")
    assert result.ledger.rejects == {"rewrite_system: unreadable": 9, "rewrite_user: unreadable": 3}
    assert {dict(r.messages)["system"] for r in base.requests} == {spec.seed_prompt}


async def test_a_rewrite_without_its_slot_is_refused(tmp_path: Path) -> None:
    sizes = LoopSizes(iterations=1, system_candidates=1, train_size=10, test_size=10)

    def reply(request: Request) -> str:
        return never_repeats()(request).replace("{question}", "")

    result, _, _ = await run(spec_of(tmp_path, (task(),), faithful=True, sizes=sizes), optimizer=reply)
    assert result.ledger.rejects["lost slot"] == 3
    assert len(result.user_prompts["t0"]) == 1


@pytest.mark.parametrize(
    "more",
    [{"faithful": True}, {"method": "protegi"}, {"method": "ape"}, {"method": "metaspo_evo"}, {"method": "gepa"}],
)
async def test_methods_that_show_raw_examples_refuse_traffic(tmp_path: Path, more: dict) -> None:
    with pytest.raises(RunBlocked, match="came from traffic"):
        await run(spec_of(tmp_path, (task(origin="traffic"),), **more))
