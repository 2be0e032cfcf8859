"""The protocol on a small world: finished cells are never paid for again, fixed prompts are shared, ceilings cost
nothing."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from optimizer.errors import DataError, EndpointDown, SearchFileError
from optimizer.paper.methods import FAITHFUL
from optimizer.paper.protocol import cells_of, load_protocol
from optimizer.paper.raw import RawRow, read_prompts, read_raw
from optimizer.paper.run import Run
from optimizer.paper.sessions import begin, worked
from optimizer.records import Completion, Request
from optimizer.run.journal import Journal
from tests.optimizer.paper.world import MODELS, backends, change, needs_rule, right, write_world

FIELDS = [
    "method",
    "domain",
    "task",
    "role",
    "seed",
    "n",
    "score",
    "low",
    "high",
    "base_model",
    "optimizer_model",
    "base_calls",
    "optimizer_calls",
    "prompt_tokens",
]


def run_of(path: Path, models: dict[Any, Any], said: list[str] | None = None) -> Run:
    return Run(load_protocol(path), clock=time.time, say=(said if said is not None else []).append, backends=models)


def run_rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "home" / "raw.jsonl").read_text().splitlines()]


def asked(models: dict[Any, Any], role: str) -> int:
    return len(models[role].requests)


async def test_every_row_of_the_tables(tmp_path: Path) -> None:
    path, said = write_world(tmp_path), []
    methods = ["default", "empty", "one_shot", "sprig", "metaspo", FAITHFUL, "outer_loop", "metaspo_ape", "metaspo_evo"]
    change(path, methods=[*methods, "constant"], adapt=["default"], source_counts=[1], scopes=["domain", "global"])
    models = backends(needs_rule)
    running = run_of(path, models, said)
    rows = await running.all()
    raw = tmp_path / "home" / "raw.jsonl"
    assert read_raw(raw) == rows
    found = {(row.method, row.scope, row.task, row.adapted, row.sources): row for row in rows}
    default, faithful = found["default", "domain", "u0", False, 0], found[FAITHFUL, "domain", "u0", False, 0]
    assert (default.score, default.n, default.answers, default.user_prompts) == (0.0, 30, 90, 3)
    assert (faithful.score, faithful.malformed, default.malformed) == (1.0, 0.0, 1.0)
    assert faithful.base_calls and faithful.optimizer_calls and faithful.prompt_sha256
    assert (default.untagged, faithful.untagged, default.metric) == (1.0, 0.0, "choice")
    assert len(default.clusters) == len(default.per_question) == 30 and default.clusters == faithful.clusters
    assert found["constant", "domain", "u0", False, 0].score == 0.5
    assert found["default", "domain", "u0", True, 0].curve[0].test == 0.0
    assert ("metaspo", "domain", "u0", False, 1) in found
    assert (FAITHFUL, "global", "u0", False, 0) in found and ("default", "global", "u0", False, 0) not in found
    prompts = {prompt.sha256: prompt.prompt for prompt in read_prompts(raw.parent / "prompts.jsonl")}
    assert prompts[faithful.prompt_sha256].startswith("Rule")
    ledger = json.loads((raw.parent / "ledger.json").read_text())
    assert ledger["calls"] == asked(models, "base") + asked(models, "optimizer") <= ledger["estimated_calls"]
    assert ledger["roles"]["base"]["calls"] == asked(models, "base") and ledger["roles"]["base"]["tokens_in"] > 0
    assert faithful.sizes == "N=1 m=1 k=1 C=2 n=8" and not default.sizes
    assert said[-1].endswith("nothing is left")


async def test_raw_rows_have_the_fields_that_the_tables_need(tmp_path: Path) -> None:
    await run_of(write_world(tmp_path), backends()).all()
    for row in run_rows(tmp_path):
        assert set(FIELDS) <= set(row)


async def test_a_killed_run_goes_on_and_pays_for_nothing_twice(tmp_path: Path) -> None:
    path = write_world(tmp_path)
    change(path, methods=["default", "cot", FAITHFUL])
    whole = backends(needs_rule)
    calls = 0

    class Dies:
        """A model that goes away for good after 100 calls."""

        identity, concurrency, retries = "scripted-base", 4, 0

        async def complete(self, request: Request) -> Completion:
            nonlocal calls
            calls += 1
            if calls > 100:
                raise EndpointDown("The base model is away.")
            return Completion(text=needs_rule(request))

        async def close(self) -> None:
            """Nothing is open."""

    with pytest.raises(EndpointDown):
        await run_of(path, {**whole, "base": Dies()}).all()
    rest = backends(needs_rule)
    rows = await run_of(path, rest).all()
    untouched = write_world(tmp_path / "again")
    change(untouched, methods=["default", "cot", FAITHFUL])
    all_at_once = backends(needs_rule)
    fresh = await run_of(untouched, all_at_once).all()
    assert [(row.key, row.score) for row in rows] == [(row.key, row.score) for row in fresh]
    assert 100 + asked(rest, "base") <= asked(all_at_once, "base") + Dies.concurrency
    idle = backends(needs_rule)
    assert await run_of(path, idle).all() == rows
    assert not asked(idle, "base") and not asked(idle, "optimizer")


class Watch:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Slow:
    """A model that takes a second for every call and may go away for good after some."""

    concurrency, retries = 1, 0

    def __init__(self, watch: Watch, model: Any, dies_after: int = 1_000_000) -> None:
        self.watch, self.model, self.left, self.identity = watch, model, dies_after, model.identity

    async def complete(self, request: Request) -> Completion:
        if self.left == 0:
            raise EndpointDown("The model is away.")
        self.left -= 1
        self.watch.now += 1.0
        return await self.model.complete(request)

    async def close(self) -> None:
        """Nothing is open."""


async def timed(path: Path, watch: Watch, dies_after: int = 1_000_000) -> None:
    models = backends(needs_rule)
    slow = {role: Slow(watch, model, dies_after) for role, model in models.items()}
    await Run(load_protocol(path), clock=watch, say=lambda _: None, backends=slow).all()


@pytest.mark.parametrize("methods", [[FAITHFUL], ["metaspo"]])
async def test_a_resumed_cell_has_the_seconds_of_all_its_sessions(tmp_path: Path, methods: list[str]) -> None:
    whole, killed, watch = tmp_path / "whole", tmp_path / "killed", Watch()
    for folder in (whole, killed):
        change(write_world(folder), methods=methods, adapt=methods)
    await timed(whole / "paper.yaml", watch)
    for _ in range(3):  # searching, measuring and adapting are each cut off somewhere
        with pytest.raises(EndpointDown):
            await timed(killed / "paper.yaml", watch, dies_after=60)
        watch.now += 50_000
    await timed(killed / "paper.yaml", watch)
    told = [json.loads((folder / "home" / "ledger.json").read_text()) for folder in (whole, killed)]
    assert told[0]["seconds"] == told[0]["calls"] > 200
    assert told[1]["seconds"] == pytest.approx(told[0]["seconds"], abs=8)  # a call in the air when it was cut off
    for one, other in zip(run_rows(whole), run_rows(killed), strict=True):
        assert other["wall_seconds"] == pytest.approx(one["wall_seconds"], abs=4), one["task"]
    assert max(row["wall_seconds"] for row in run_rows(killed)) > 20


async def test_sessions_that_other_cells_followed_and_lines_cut_short_are_read(tmp_path: Path) -> None:
    for cell, at in (("a", 10.0), ("b", 20.0), ("a", 500.0)):
        begin(tmp_path, cell, at)
    journal = Journal(tmp_path / "x.journal")
    journal.keep(*((bytes([i]) * 20, "base", "", Completion(text="x"), at) for i, at in enumerate((12.0, 19.0, 70.0))))
    journal.close()
    with (tmp_path / "sessions.jsonl").open("a") as file:
        file.write('{"cell": "a", "at"')
    assert worked(tmp_path, "a", 507.0) == 9.0 + 7.0
    begin(tmp_path, "b", 600.0)
    assert worked(tmp_path, "b", 600.0) == 50.0 and worked(tmp_path, "c", 600.0) == 0.0
    held = Journal(tmp_path / "x.journal")  # as a second process holds it
    assert worked(tmp_path, "b", 601.0) == 1.0
    held.close()


async def test_a_second_seed_of_a_fixed_prompt_costs_nothing(tmp_path: Path) -> None:
    path = write_world(tmp_path)
    change(path, methods=["default"], seeds=[1, 2])
    models = backends()
    rows = await run_of(path, models).all()
    assert asked(models, "base") == 60 + 90  # two source tasks once, one unseen task under three user prompts
    assert len({row.seed for row in rows}) == 2


async def test_rotation_asks_each_question_once(tmp_path: Path) -> None:
    path = write_world(tmp_path)
    change(path, methods=["default"], ask="rotate")
    rows = await run_of(path, backends()).all()
    (unseen,) = [row for row in rows if row.role == "unseen"]
    assert (unseen.n, unseen.answers, len(unseen.user_prompt_scores)) == (30, 30, 3)
    assert len(unseen.per_question) == 30 and set(unseen.per_question) <= {0.0, 1.0}
    assert sum(score or 0.0 for score in unseen.per_question) == pytest.approx(30 * unseen.score)


async def test_a_task_at_its_ceiling_costs_no_optimizer_call(tmp_path: Path) -> None:
    path = write_world(tmp_path)
    change(path, methods=["metaspo", FAITHFUL, "gepa"], adapt=["metaspo"])
    models = backends(right)
    rows = await run_of(path, models).all()
    assert asked(models, "optimizer") == 0
    assert all(row.saturated for row in rows if row.role == "source" or row.adapted)
    assert all("ceiling" in row.reason and row.base_calls == 0 for row in rows)


async def test_what_cannot_be_run_is_left_out_with_its_reason(tmp_path: Path) -> None:
    path = write_world(tmp_path)
    change(path, methods=["default", FAITHFUL, "one_shot"], models={"base": MODELS["base"]})
    rows = await run_of(path, {"base": backends(needs_rule)["base"]}).all()
    assert {row.method for row in rows} == {"default"}
    left_out = json.loads((tmp_path / "home" / "ledger.json").read_text())["left_out"]
    assert all("optimizer" in why for why in left_out.values()) and len(left_out) == 2


async def test_gepa_gets_the_calls_that_metaspo_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("gepa")
    path = write_world(tmp_path)
    change(path, methods=["gepa", "metaspo"], budget_calls=80)
    rows: list[RawRow] = await run_of(path, backends(needs_rule)).all()
    calls = {row.method: row.requested_calls for row in rows}
    assert 0 < calls["gepa"] <= calls["metaspo"] + 8  # the library finishes the batch it has begun


async def test_user_prompts_are_made_once_and_stored(tmp_path: Path) -> None:
    path = write_world(tmp_path)
    change(path, user_prompts_by="optimizer", methods=["default"])
    models = backends()
    first = run_of(path, models)
    await first.all()
    stored = json.loads((tmp_path / "home" / "user_prompts.jsonl").read_text())
    assert stored["task"] == "u0" and len(stored["prompts"]) == 3 and stored["by"].startswith("scripted-optimizer")
    again = backends()
    await run_of(path, again).all()
    assert not asked(again, "optimizer")
    assert list(first.user_prompts["u0"].prompts) == stored["prompts"]


async def test_a_damaged_cell_is_named(tmp_path: Path) -> None:
    path = write_world(tmp_path)
    await run_of(path, backends()).all()
    cell = next((tmp_path / "home" / "cells").iterdir())
    cell.write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        await run_of(path, backends()).all()


async def test_other_base_models_measure_what_was_found(tmp_path: Path) -> None:
    path = write_world(tmp_path)
    change(path, other_bases=[{"model": "another"}], methods=[FAITHFUL])
    assert [cell.base for cell in cells_of(load_protocol(path))] == [0, 1]
    models = backends(needs_rule)
    rows = await run_of(path, models).all()
    elsewhere = [row for row in rows if row.found_on]
    assert {(row.base_model, row.found_on) for row in elsewhere} == {("another", "scripted-base")}
    assert all(row.score == 1.0 for row in elsewhere)


async def test_a_part_of_the_protocol_keeps_the_rows_of_the_others(tmp_path: Path) -> None:
    path = write_world(tmp_path)
    for method in ("default", "cot"):
        change(path, methods=[method])
        await run_of(path, backends()).all()
    change(path, methods=["default"], test_rows=20)
    await run_of(path, backends()).all()
    rows = read_raw(tmp_path / "home" / "raw.jsonl")
    assert [(row.method, row.n) for row in rows if row.task == "u0"] == [("default", 30), ("cot", 30), ("default", 20)]
    assert len({row.protocol for row in rows}) == 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"methods": ["metaspoo"]}, "'metaspoo' is no row of the paper's tables. Did you mean 'metaspo'"),
        ({"metods": ["default"]}, "methods"),
        ({"test_rows": 0}, "test_rows is 0"),
        ({"source_counts": [-1]}, "source_counts holds -1. Each is a number of source tasks"),
        ({"source_counts": [1, 0]}, "source_counts holds 0"),
        ({"sizes": {"iterations": 0}}, r"sizes\.iterations is 0. It must be at least 1"),
        ({"sizes": {"train_size": -3}}, r"sizes\.train_size is -3"),
        ({"user_prompts": 12, "user_prompts_by": "own"}, "there are 10 own wordings: set `user_prompts: 10`"),
        ({"adapt": ["constant"]}, "adapt names constant, which answers without a model"),
        ({"seeds": []}, "at least one domain, one method, one scope and one seed"),
        ({"user_prompts_by": "optimizer", "models": {"base": MODELS["base"]}}, "user_prompts_by is optimizer"),
        ({"domains": ["colors"]}, "'colors' is not in the catalogue. Did you mean 'colours'"),
        ({"domains": {"mine": {"source": ["s7"]}}}, "'s7' is not in the catalogue"),
        ({"skip": ["s0", "s1"]}, "has no source task"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    path = write_world(tmp_path)
    change(path, **changes)
    with pytest.raises((SearchFileError, DataError), match=told):
        load_protocol(path)
