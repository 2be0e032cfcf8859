"""The default search as a whole: what it costs, what it refuses, killed anywhere, and what worlds show."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.errors import EndpointDown, RunBlocked
from optimizer.records import Budget, Completion, JudgeSpec, Models, ModelSpec, Request, SearchResult, SearchSpec
from optimizer.search import search
from optimizer.steps.plan import LEAST_CALLS, plan_for
from optimizer.worlds.world import SEED_PROMPT, World, WorldBackend, WorldSettings, world_tasks
from tests.optimizer.endpoint import serve
from tests.optimizer.scripted import Scripted, right_answer, spec_of, task


def world_spec(home: Path, world: WorldSettings, calls: int, **more) -> SearchSpec:
    model = ModelSpec(model="world:")
    settings = {
        "seed_prompt": SEED_PROMPT,
        "tasks": world_tasks(world, holdout=60),
        "models": Models(base=model, optimizer=model),
        "budget": Budget(calls=calls),
        "home": home,
        "seed": world.seed,
    } | more
    return SearchSpec(**settings)


async def in_world(home: Path, world: WorldSettings, calls: int, **more) -> SearchResult:
    backend = WorldBackend(World(world))
    spec = world_spec(home, world, calls, **more)
    roles = {"base": backend} | ({"optimizer": backend} if spec.models.optimizer else {})
    return await search(spec, clock=time.time, backends=roles)


INFORMATIVE = WorldSettings(seed=5, tasks=3, unseen=1, q=0.3)


def outcome(result: SearchResult) -> dict:
    """Everything that two runs of the same search must agree on."""
    plain = msgspec.to_builtins(msgspec.structs.replace(result, gate=None, wall_seconds=0.0))
    plain["gate"] = result.gate.to_dict() if result.gate else None
    for row in plain["ledger"]["roles"].values():
        row["replayed"] = 0
    return plain


# --- what it finds ---------------------------------------------------------------------------------------------------


async def test_an_informative_world_is_improved_and_confirmed(tmp_path: Path) -> None:
    result = await in_world(tmp_path, INFORMATIVE, 2500)
    truth = World(INFORMATIVE)
    assert result.gate is not None and result.gate.outcome == "PASS"
    assert truth.accuracy(result.winner) > truth.accuracy(SEED_PROMPT) + 0.1
    assert result.proposer == "rewrite" and result.generations
    assert result.ledger.calls <= 2500
    assert len(result.per_item) == sum(score.interval.n for score in result.winner_scores.holdout.tasks.values())


async def test_without_an_optimizer_model_components_are_edited(tmp_path: Path) -> None:
    world = replace(INFORMATIVE, q=0.0)
    models = Models(base=ModelSpec(model="world:"))
    result = await in_world(tmp_path, world, 900, models=models)
    assert result.proposer == "components"
    assert set(result.ledger.roles) == {"base"}
    assert result.ledger.calls <= 900


@pytest.mark.parametrize("method", ["sprig", "metaspo"])
async def test_the_edit_search_finds_something_in_a_world_of_its_own_sentences(tmp_path: Path, method: str) -> None:
    world = replace(INFORMATIVE, strength=1.5)
    models = Models(base=ModelSpec(model="world:"))
    result = await in_world(tmp_path, world, 2500, models=models, method=method)
    truth = World(world)
    assert result.proposer == "components"
    assert truth.accuracy(result.winner) > truth.accuracy(SEED_PROMPT)


@pytest.mark.parametrize("reply", ["{}", '{"system_prompt": "You help."}'], ids=["unreadable", "useless"])
async def test_a_lean_towards_a_label_is_found_though_the_optimizer_is_useless(tmp_path: Path, reply: str) -> None:
    def lean(request: Request) -> str:
        right = right_answer(request)
        return "no" if right == "yes" and "answer yes" not in request.messages[0][1] else right

    backends = {"base": Scripted(lean), "optimizer": Scripted(lambda request: reply)}
    spec = spec_of(tmp_path, (task("a"), task("b"), task("c")), budget=Budget(calls=1500))
    result = await search(spec, clock=time.time, backends=backends)
    assert "If you hesitate between no and yes, answer yes." in result.winner
    assert result.gate is not None and result.gate.outcome == "PASS"


async def test_where_no_prompt_matters_nothing_is_reported(tmp_path: Path) -> None:
    effects, passed = [], 0
    for seed in range(1, 7):
        world = WorldSettings(seed=seed, tasks=3, unseen=0, null=True)
        result = await in_world(tmp_path / str(seed), world, 700, options={"holdout_per_task": 60})
        effects.append(result.gate.effect if result.gate else 0.0)
        passed += result.gate is not None and result.gate.outcome == "PASS"
    assert passed <= 2
    assert abs(sum(effects) / len(effects)) < 0.06


# --- what it does not spend ------------------------------------------------------------------------------------------


async def test_a_lead_on_fresh_examples_outweighs_a_headroom_check_that_saw_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optimizer.steps.headroom.no_headroom", lambda *_: "No headroom: nothing was seen.")
    told = []
    backend = WorldBackend(World(INFORMATIVE))
    spec = world_spec(tmp_path / "a", INFORMATIVE, 4000)
    found = await search(spec, clock=time.time, on_event=told.append, backends={"base": backend, "optimizer": backend})
    asked = [event for event in told if event.kind == "headroom"]
    assert [event.data["ahead"] for event in asked if event.data["generation"]] == [True]
    assert "No headroom" not in found.reason
    ended = await in_world(tmp_path / "b", WorldSettings(seed=5, tasks=3, unseen=1, null=True), 4000)
    assert "No headroom" in ended.reason


async def test_an_all_correct_baseline_costs_no_optimizer_call(tmp_path: Path) -> None:
    base, optimizer = Scripted(right_answer, "base"), Scripted(_writes_numbered_prompts(), "optimizer")
    spec = spec_of(tmp_path, (task(), task("t1")), budget=Budget(calls=3000))
    result = await search(spec, clock=time.time, backends={"base": base, "optimizer": optimizer})
    assert not optimizer.requests
    assert any("one_shot was left out" in note for note in result.notes)
    assert result.winner == spec.seed_prompt and "Nothing left to mend" in result.reason
    assert result.gate is None


@pytest.mark.parametrize(
    "reply",
    ["no JSON here", "{}", '{"findings": []}', '{"findings": [{"type": "mood", "text": "x"}]}', "[1, 2]", ""],
)
async def test_unreadable_replies_never_reach_the_base_model(tmp_path: Path, reply: str) -> None:
    base, optimizer = Scripted(_sometimes_right, "base"), Scripted(lambda _: reply, "optimizer")
    options = {"first_rungs": (), "diverse": 0, "baseline_per_task": 0}
    spec = spec_of(tmp_path, (task(), task("t1")), budget=Budget(calls=600), options=options)
    result = await search(spec, clock=time.time, backends={"base": base, "optimizer": optimizer})
    systems = {dict(r.messages)["system"] for r in base.requests}
    assert systems == {spec.seed_prompt}
    assert result.ledger.rejects["analyse_task: unreadable"] > 0


async def test_duplicates_are_refused_before_any_base_call(tmp_path: Path) -> None:
    def echo(request: Request) -> str:
        return _structured(request, prompt="You are a helpful  assistant.", slot="{question}")

    base, optimizer = Scripted(_sometimes_right, "base"), Scripted(echo, "optimizer")
    spec = spec_of(tmp_path, (task(), task("t1")), budget=Budget(calls=600), options={"diverse": 0})
    result = await search(spec, clock=time.time, backends={"base": base, "optimizer": optimizer})
    assert result.ledger.rejects["near-duplicate"] > 0
    assert not [r for r in base.requests if "helpful  assistant" in dict(r.messages).get("system", "")]


@pytest.mark.parametrize("calls", [60, 137, 400, 1200])
async def test_the_budget_is_a_hard_stop_that_leaves_the_best(tmp_path: Path, calls: int) -> None:
    backend = WorldBackend(World(INFORMATIVE))
    spec = world_spec(tmp_path, INFORMATIVE, calls)
    result = await search(spec, clock=time.time, backends={"base": backend, "optimizer": backend})
    assert sum(backend.requests.values()) == result.ledger.calls <= calls
    assert result.winner and result.reason
    assert result.winner_scores.holdout.mean is not None or result.notes


def test_a_budget_too_small_to_learn_from_is_refused(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (task(),), budget=Budget(calls=LEAST_CALLS - 1))
    with pytest.raises(RunBlocked, match="at least 60 calls"):
        import asyncio

        asyncio.run(search(spec, clock=time.time, backends={"base": Scripted(right_answer)}))


@settings(max_examples=60, deadline=None)
@given(calls=st.integers(60, 60_000), sources=st.integers(1, 16), unseen=st.integers(0, 6))
def test_every_plan_fits_its_budget(calls: int, sources: int, unseen: int) -> None:
    tasks = tuple(task(f"s{i}", holdout=100) for i in range(sources))
    more = tuple(task(f"u{i}", holdout=100, role="unseen") for i in range(unseen))
    plan = plan_for(spec_of(Path("unused"), (*tasks, *more), budget=Budget(calls=calls)))
    assert plan.search_calls + plan.confirmation_calls <= calls + 1
    assert plan.generations >= 1 and plan.candidates >= 1
    assert [r.cells for r in plan.rungs] == sorted(r.cells for r in plan.rungs)
    assert all(r.cells % sources == 0 for r in plan.rungs)
    assert plan.lines()


# --- killed anywhere -------------------------------------------------------------------------------------------------


class Mortal(WorldBackend):
    """A world whose endpoint dies after so many calls."""

    def __init__(self, world: World, lives: int) -> None:
        super().__init__(world)
        self.lives = lives
        self.paid = 0

    async def complete(self, request: Request) -> Completion:
        if self.lives <= 0:
            raise EndpointDown("The endpoint went away.")
        self.lives -= 1
        self.paid += 1
        return await super().complete(request)


@pytest.mark.parametrize("proposer", ["rewrite", "components"])
async def test_killed_and_resumed_it_ends_as_if_undisturbed(tmp_path: Path, proposer: str) -> None:
    world = replace(INFORMATIVE, unseen=1)
    options = {"proposer": proposer}
    undisturbed = await in_world(tmp_path / "whole", world, 900, options=options)
    paid, resumed = 0, None
    for lives in (1, 40, 97, 300, 10_000):
        backend = Mortal(World(world), lives)
        spec = world_spec(tmp_path / "killed", world, 900, options=options, resume=True)
        try:
            resumed = await search(spec, clock=time.time, backends={"base": backend, "optimizer": backend})
        except EndpointDown:
            paid += backend.paid
            continue
        paid += backend.paid
        break
    assert resumed is not None
    assert outcome(resumed) == outcome(undisturbed)
    assert paid == undisturbed.ledger.calls


# --- what the writer and the judge may not do ------------------------------------------------------------------------


async def test_the_writer_never_sees_an_example(tmp_path: Path) -> None:
    base, optimizer = Scripted(_sometimes_right, "base"), Scripted(_writes_numbered_prompts(), "optimizer")
    spec = spec_of(
        tmp_path,
        (task(origin="traffic", reflect=60), task("t1", origin="traffic", reflect=60)),
        budget=Budget(calls=4000),
        options={"headroom_cells": 0},
    )
    await search(spec, clock=time.time, backends={"base": base, "optimizer": optimizer})
    purposes = {r.purpose for r in optimizer.requests}
    assert {"analyse_task", "synthesise", "write_system", "write_user"} <= purposes
    for request in optimizer.requests:
        if request.purpose != "analyse_task":
            assert "number" not in request.messages[-1][1].replace("prompt number", "")
        else:
            assert "holdout" not in request.messages[-1][1] and "select" not in request.messages[-1][1]


async def test_a_judge_that_passes_wrong_answers_blocks_the_run(tmp_path: Path) -> None:
    def yes(request: Request) -> str:
        ids = request.schema["properties"]["checks"]["items"]["properties"]["id"]["enum"] if request.schema else []
        checks = [{"id": i, "evidence": "", "verdict": "yes" if i.startswith("c") else "no"} for i in ids]
        return json.dumps({"checks": checks, "injection_suspected": False, "critique": ""})

    judged = msgspec.structs.replace(task(), judge=JudgeSpec(kind="rubric", rubric=("The answer is right.",)))
    models = Models(base=ModelSpec(model="scripted"), judge=ModelSpec(model="scripted"))
    spec = spec_of(tmp_path, (judged,), models=models, budget=Budget(calls=500))
    base = Scripted(right_answer, "base")
    with pytest.raises(RunBlocked, match="passes a known wrong answer"):
        await search(spec, clock=time.time, backends={"base": base, "judge": Scripted(yes, "judge")})
    assert not base.requests


async def test_over_real_http_with_a_schema(tmp_path: Path) -> None:
    """The whole search against one OpenAI-compatible server on loopback that plays base and optimizer model."""

    def reply(body: dict) -> str:
        request = Request(
            role="base",
            messages=tuple((m["role"], m["content"]) for m in body["messages"]),
            schema=body.get("response_format", {}).get("json_schema", {}).get("schema"),
        )
        if body["model"] == "writer":
            return _writes_numbered_prompts()(request)
        return _sometimes_right(request)

    async with serve(reply) as endpoint:
        models = Models(
            base=ModelSpec(model="openai/small", api_base=endpoint.url, api_key="k"),
            optimizer=ModelSpec(model="openai/writer", api_base=endpoint.url, api_key="k"),
        )
        spec = spec_of(tmp_path, (task(), task("t1")), models=models, budget=Budget(calls=400))
        result = await search(spec, clock=time.time)
    assert len(endpoint.bodies) == result.ledger.calls <= 400
    assert result.proposer == "rewrite"
    assert any(body.get("response_format", {}).get("type") == "json_schema" for body in endpoint.bodies)


async def test_gepa_runs_on_the_same_path(tmp_path: Path) -> None:
    pytest.importorskip("gepa")
    drafts = iter(range(10_000))

    def reflect(_: Request) -> str:
        return f"```\nYou are a helpful assistant. Follow rule {next(drafts)}.\n```"

    base, optimizer = Scripted(_sometimes_right, "base"), Scripted(reflect, "optimizer")
    spec = spec_of(tmp_path, (task(), task("t1")), method="gepa", budget=Budget(calls=500))
    result = await search(spec, clock=time.time, backends={"base": base, "optimizer": optimizer})
    assert result.method == "gepa" and result.ledger.calls <= 500
    assert optimizer.requests and result.generations[0].candidates


async def test_a_mistyped_proposer_is_named(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (task(),), options={"proposer": "magic"})
    with pytest.raises(RunBlocked, match="magic"):
        await search(spec, clock=time.time, backends={"base": Scripted(right_answer)})


# --- replies ---------------------------------------------------------------------------------------------------------


def _sometimes_right(request: Request) -> str:
    """Right on two of three questions, whatever the prompt."""
    right = right_answer(request)
    return right if hash_of(request.messages[-1][1]) % 3 else ("no" if right == "yes" else "yes")


def hash_of(text: str) -> int:
    import hashlib

    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def _writes_numbered_prompts():
    """An optimizer that keeps every form and never writes the same twice."""
    words = ("careful", "brief", "exact", "plain", "calm", "fair", "quick", "strict", "kind", "firm", "neat", "apt")
    asked = iter(range(1, 100_000))

    def reply(request: Request) -> str:
        n = next(asked)
        text = f"Be {words[n % 12]} and {words[(n // 12) % 12]}, then {words[(n * 7) % 12]}, in every single answer."
        return _structured(request, prompt=text, slot="{question}")

    return reply


def _structured(request: Request, *, prompt: str, slot: str) -> str:
    wanted = set(request.schema["properties"]) if request.schema else set()
    if "findings" in wanted:
        return json.dumps({"findings": [{"type": "reasoning", "text": "The model decides too early."}]})
    if "hypotheses" in wanted:
        rows = [{"label": "h", "cause": "c", "change": f"{prompt} Really so, in way {i}."} for i in range(3)]
        return json.dumps({"hypotheses": rows})
    if "system_prompt" in wanted:
        return json.dumps({"system_prompt": prompt})
    if "user_prompt" in wanted:
        return json.dumps({"user_prompt": f"{prompt}\n{slot}\nAnswer yes or no."})
    return "nothing"


async def test_a_budget_in_money_alone_sizes_the_loops_and_stops_them(tmp_path: Path) -> None:
    backend = WorldBackend(World(INFORMATIVE))
    model = ModelSpec(model="world:", price_in=1.0, price_out=2.0, max_tokens=20)
    spec = world_spec(tmp_path, INFORMATIVE, 1, models=Models(base=model, optimizer=model), budget=Budget(usd=0.2))
    result = await search(spec, clock=time.time, backends={"base": backend, "optimizer": backend})
    assert result.ledger.usd <= 0.2
    assert 200 < result.ledger.calls < 2000
    assert result.winner_scores.holdout.mean is not None


async def test_fixed_further_user_prompts_join_the_race(tmp_path: Path) -> None:
    base, optimizer = Scripted(_sometimes_right, "base"), Scripted(_writes_numbered_prompts(), "optimizer")
    fixed = task(editable_user_prompt=False, robustness_prompts=("Is it so, yes or no?\n{question}",))
    spec = spec_of(tmp_path, (fixed, task("t1")), budget=Budget(calls=900))
    result = await search(spec, clock=time.time, backends={"base": base, "optimizer": optimizer})
    raced = [r.messages[-1][1] for r in base.requests if "t0 select" in r.messages[-1][1]]
    assert {text.split("\n")[0] for text in raced} == {
        "Say whether it holds. Answer yes or no.",
        "Is it so, yes or no?",
    }
    assert result.user_prompts["t0"] == (fixed.user_prompt, *fixed.robustness_prompts)
    assert not [r for r in optimizer.requests if r.purpose == "write_user" and "Task: t0" in r.messages[-1][1]]
