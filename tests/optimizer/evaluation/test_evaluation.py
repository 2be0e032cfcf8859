"""The one path of every call: cache, journal, budget, ledger, resume, and what happens when the endpoint fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from optimizer.errors import BudgetSpent, EndpointDown, EndpointRefused, JournalError, RunBlocked
from optimizer.evaluation.evaluation import Evaluation
from optimizer.evaluation.rollouts import render
from optimizer.records import Budget, Event, Example, JudgeSpec, Models, ModelSpec, SearchSpec, SearchTask
from optimizer.run.fingerprint import fingerprint
from tests.optimizer.endpoint import Endpoint, chat, problem, serve

CHOICE = JudgeSpec(kind="choice", labels=("yes", "no"))


def task_of(n: int, name: str = "task", judge: JudgeSpec = CHOICE) -> SearchTask:
    rows = tuple(Example(id=f"{name}-{i}", question=f"{name} {i}?", answers=("yes",), position=i + 1) for i in range(n))
    return SearchTask(name=name, user_prompt="Q: {question}", judge=judge, reflect=rows)


def spec_of(url: str, home: Path, **more: Any) -> SearchSpec:
    model = ModelSpec(model="openai/tiny", api_base=url, price_in=1.0, price_out=2.0, retries=0, concurrency=8)
    more.setdefault("tasks", (task_of(6),))
    more.setdefault("models", Models(base=model, optimizer=model, judge=model))
    return SearchSpec(seed_prompt="Be brief.", home=home, **more)


def now() -> float:
    return 1_800_000_000.0


@pytest.fixture
async def yes() -> AsyncIterator[Endpoint]:
    async with serve(lambda body: "yes") as endpoint:
        yield endpoint


async def test_rollouts_come_in_order_with_scores(tmp_path: Path) -> None:
    async def answer(body: dict[str, Any]) -> str:
        text = body["messages"][-1]["content"]
        await asyncio.sleep(0.02 if "task 0?" in text else 0)
        return "<answer>yes</answer>" if "task 0?" in text else "no"

    async with serve(answer) as endpoint:
        spec = spec_of(endpoint.url, tmp_path)
        task = spec.tasks[0]
        async with Evaluation.open(spec, clock=now) as evaluation:
            rollouts = await evaluation.rollouts("System.", task, task.user_prompt, task.reflect)
            score = evaluation.score(task, task.reflect, rollouts)
    assert [rollout.example_id for rollout in rollouts] == [example.id for example in task.reflect]
    assert [rollout.score for rollout in rollouts] == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert [rollout.error_kind for rollout in rollouts[:2]] == ["", "wrong"]
    assert score.interval.n == 6
    assert endpoint.bodies[0]["messages"][0] == {"role": "system", "content": "System."}
    assert endpoint.bodies[0]["temperature"] == 0.0
    assert "seed" not in endpoint.bodies[0]


async def test_each_distinct_request_is_paid_for_once(yes: Endpoint, tmp_path: Path) -> None:
    spec = spec_of(yes.url, tmp_path)
    task = spec.tasks[0]
    async with Evaluation.open(spec, clock=now) as evaluation:
        await asyncio.gather(*(evaluation.rollouts("S", task, task.user_prompt, task.reflect) for _ in range(5)))
        await evaluation.rollouts("S", task, task.user_prompt, task.reflect, sample=1)
        base = evaluation.ledger.roles["base"]
    assert (base.requested, base.paid, base.cache_hits) == (36, 12, 24)
    assert len(yes.bodies) == 12
    assert base.usd == pytest.approx(12 * (10 * 1.0 + 1 * 2.0) / 1e6)


async def test_requests_that_differ_late_are_different(yes: Endpoint, tmp_path: Path) -> None:
    spec = spec_of(yes.url, tmp_path)
    head = "x" * 500
    rows = tuple(Example(id=str(i), question=f"{head}{i}", answers=("yes",)) for i in range(2))
    async with Evaluation.open(spec, clock=now) as evaluation:
        await evaluation.rollouts("S", spec.tasks[0], "{question}", rows)
    assert len(yes.bodies) == 2


async def test_a_resumed_run_pays_for_nothing_twice_and_reports_the_same(yes: Endpoint, tmp_path: Path) -> None:
    spec = spec_of(yes.url, tmp_path)
    task = spec.tasks[0]
    async with Evaluation.open(spec, clock=now) as evaluation:
        await evaluation.rollouts("S", task, task.user_prompt, task.reflect[:4])
        await evaluation.optimize_call([("user", "Think.")], purpose="test")
    async with Evaluation.open(msgspec.structs.replace(spec, resume=True), clock=now) as evaluation:
        await evaluation.rollouts("S", task, task.user_prompt, task.reflect)
        await evaluation.optimize_call([("user", "Think.")], purpose="test")
        resumed = evaluation.ledger
    assert len(yes.bodies) == 7
    assert resumed.roles["base"].paid == 6
    assert resumed.roles["base"].replayed == 4
    assert resumed.roles["optimizer"].replayed == 1


async def test_an_unfinished_run_is_not_overwritten_by_accident(yes: Endpoint, tmp_path: Path) -> None:
    spec = spec_of(yes.url, tmp_path)
    async with Evaluation.open(spec, clock=now) as evaluation:
        await evaluation.rollouts("S", spec.tasks[0], "{question}", spec.tasks[0].reflect[:1])
    with pytest.raises(JournalError, match=r"1 calls paid.*--resume"):
        async with Evaluation.open(spec, clock=now):
            pass


async def test_a_finished_run_is_put_aside(yes: Endpoint, tmp_path: Path) -> None:
    spec = spec_of(yes.url, tmp_path)
    for _ in range(2):
        async with Evaluation.open(spec, clock=now) as evaluation:
            await evaluation.rollouts("S", spec.tasks[0], "{question}", spec.tasks[0].reflect[:1])
            assert evaluation.ledger.roles["base"].replayed == 0
            evaluation.finished()
    assert len(list(tmp_path.glob("*.journal"))) == 2
    assert len(yes.bodies) == 2


async def test_two_processes_cannot_share_a_run(yes: Endpoint, tmp_path: Path) -> None:
    spec = spec_of(yes.url, tmp_path)
    async with Evaluation.open(spec, clock=now):
        with pytest.raises(JournalError, match="Another process"):
            async with Evaluation.open(spec, clock=now):
                pass


async def test_a_block_that_passes_the_budget_is_not_begun(yes: Endpoint, tmp_path: Path) -> None:
    spec = spec_of(yes.url, tmp_path, budget=Budget(calls=8))
    task = spec.tasks[0]
    async with Evaluation.open(spec, clock=now) as evaluation:
        await evaluation.rollouts("S", task, task.user_prompt, task.reflect)
        assert evaluation.calls_left == 2
        with pytest.raises(BudgetSpent, match="8 calls"):
            await evaluation.rollouts("T", task, task.user_prompt, task.reflect)
        await evaluation.rollouts("S", task, task.user_prompt, task.reflect)  # cached: costs nothing
        await evaluation.rollouts("T", task, task.user_prompt, task.reflect[:2])
        assert evaluation.calls_left == 0
    assert len(yes.bodies) == 8


async def test_the_budget_counts_an_interrupted_session(yes: Endpoint, tmp_path: Path) -> None:
    spec = spec_of(yes.url, tmp_path, budget=Budget(calls=6))
    task = spec.tasks[0]
    async with Evaluation.open(spec, clock=now) as evaluation:
        await evaluation.rollouts("S", task, task.user_prompt, task.reflect)
    async with Evaluation.open(msgspec.structs.replace(spec, resume=True), clock=now) as evaluation:
        await evaluation.rollouts("S", task, task.user_prompt, task.reflect)
        with pytest.raises(BudgetSpent):
            await evaluation.optimize_call([("user", "More?")], purpose="test")


async def test_concurrent_blocks_never_pass_the_budget(yes: Endpoint, tmp_path: Path) -> None:
    spec = spec_of(yes.url, tmp_path, budget=Budget(calls=20))
    task = spec.tasks[0]
    async with Evaluation.open(spec, clock=now) as evaluation:
        blocks = (evaluation.rollouts(f"S{i}", task, task.user_prompt, task.reflect) for i in range(9))
        outcomes = await asyncio.gather(*blocks, return_exceptions=True)
        assert sum(isinstance(outcome, BudgetSpent) for outcome in outcomes) == 6
        assert evaluation.ledger.calls == 18
    assert len(yes.bodies) == 18


async def test_a_budget_in_usd_is_never_passed(yes: Endpoint, tmp_path: Path) -> None:
    model = ModelSpec(model="tiny", api_base=yes.url, price_in=10.0, price_out=1000.0, max_tokens=5, concurrency=4)
    spec = spec_of(yes.url, tmp_path, budget=Budget(usd=0.02), models=Models(base=model), tasks=(task_of(40),))
    async with Evaluation.open(spec, clock=now) as evaluation:
        with pytest.raises(BudgetSpent, match=r"0\.02 USD"):
            await evaluation.rollouts("S", spec.tasks[0], "{question}", spec.tasks[0].reflect)
        assert 0.01 < evaluation.ledger.usd <= 0.02
        assert evaluation.ledger.calls == len(yes.bodies)


async def test_a_budget_in_usd_needs_prices(yes: Endpoint, tmp_path: Path) -> None:
    model = ModelSpec(model="tiny", api_base=yes.url)
    spec = spec_of(yes.url, tmp_path, budget=Budget(usd=1.0), models=Models(base=model))
    with pytest.raises(RunBlocked, match="price_in"):
        async with Evaluation.open(spec, clock=now):
            pass


async def test_an_endpoint_that_dies_leaves_a_run_that_resumes(tmp_path: Path) -> None:
    alive = True
    answered = 0

    def answer(body: dict[str, Any]) -> str | web.Response:
        nonlocal answered
        if not alive or answered >= 3:
            return problem(503, "Down for now")
        answered += 1
        return "yes"

    async with serve(answer) as endpoint:
        spec = spec_of(endpoint.url, tmp_path)
        task = spec.tasks[0]
        with pytest.raises(EndpointDown, match=r"503.*--resume.*the call: base model, task/task-"):
            async with Evaluation.open(spec, clock=now) as evaluation:
                await evaluation.rollouts("S", task, task.user_prompt, task.reflect)
        paid = answered
        answered = -10
        async with Evaluation.open(msgspec.structs.replace(spec, resume=True), clock=now) as evaluation:
            rollouts = await evaluation.rollouts("S", task, task.user_prompt, task.reflect)
            assert evaluation.ledger.roles["base"].replayed == paid
    assert all(rollout.score == 1.0 for rollout in rollouts)


async def test_a_shared_call_whose_payer_gives_up_is_paid_by_the_other(tmp_path: Path) -> None:
    async def slowly(body: dict[str, Any]) -> str:
        await asyncio.sleep(0.05)
        return "yes"

    async with serve(slowly) as endpoint:
        spec = spec_of(endpoint.url, tmp_path)
        task = spec.tasks[0]
        async with Evaluation.open(spec, clock=now) as evaluation:
            first = asyncio.create_task(evaluation.rollouts("S", task, task.user_prompt, task.reflect))
            await asyncio.sleep(0.01)
            second = asyncio.create_task(evaluation.rollouts("S", task, task.user_prompt, task.reflect))
            await asyncio.sleep(0.01)
            first.cancel()
            rollouts = await second
            assert [rollout.score for rollout in rollouts] == [1.0] * 6
            assert evaluation.calls_left is None


async def test_what_concerns_one_example_is_data(tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> str | web.Response:
        text = body["messages"][-1]["content"]
        if "task 0?" in text:
            return chat("I can't help with that.", refusal="I can't help with that.")
        if "task 1?" in text:
            return chat("Well, let me think about", finish="length")
        if "task 2?" in text:
            return problem(400, "Blocked by policy", code="content_filter")
        if "task 3?" in text:
            return problem(400, "Too long", code="context_length_exceeded")
        if "task 4?" in text:
            return chat("")
        return "yes"

    async with serve(answer) as endpoint:
        spec = spec_of(endpoint.url, tmp_path)
        task = spec.tasks[0]
        async with Evaluation.open(spec, clock=now) as evaluation:
            rollouts = await evaluation.rollouts("", task, task.user_prompt, task.reflect)
            score = evaluation.score(task, task.reflect, rollouts)
    assert [rollout.error_kind for rollout in rollouts] == ["refusal", "truncated", "", "", "format", ""]
    assert [rollout.score for rollout in rollouts] == [0.0, 0.0, None, None, 0.0, 1.0]
    assert rollouts[2].unscored == "filtered: content_filter"
    assert score.unscored == pytest.approx(2 / 6)
    assert score.interval.n == 4
    assert endpoint.bodies[0]["messages"][0]["role"] == "user"  # an empty system prompt is not sent


async def test_refusals_for_good_stop_the_run(tmp_path: Path) -> None:
    async with serve(lambda body: problem(401, "Incorrect API key provided")) as endpoint:
        spec = spec_of(endpoint.url, tmp_path)
        async with Evaluation.open(spec, clock=now) as evaluation:
            with pytest.raises(EndpointRefused, match=r"401: Incorrect API key provided\. Check the API key\."):
                await evaluation.rollouts("S", spec.tasks[0], "{question}", spec.tasks[0].reflect)
        assert len(endpoint.bodies) <= 8


async def test_roles_that_are_one_model_share_its_limits(tmp_path: Path) -> None:
    async def slowly(body: dict[str, Any]) -> str:
        await asyncio.sleep(0.01)
        return "yes"

    async with serve(slowly) as endpoint:
        model = ModelSpec(model="openai/tiny", api_base=endpoint.url, concurrency=2)
        warm = msgspec.structs.replace(model, temperature=0.7)
        spec = spec_of(endpoint.url, tmp_path, models=Models(base=model, optimizer=warm))
        async with Evaluation.open(spec, clock=now) as evaluation:
            await asyncio.gather(
                evaluation.rollouts("S", spec.tasks[0], "{question}", spec.tasks[0].reflect),
                *(evaluation.optimize_call([("user", str(i))], purpose="test") for i in range(4)),
            )
    assert endpoint.most_at_once == 2
    assert {body["temperature"] for body in endpoint.bodies} == {0.0, 0.7}


def test_a_key_is_not_shown() -> None:
    assert "sk-" not in repr(Models(base=ModelSpec(model="m", api_key="sk-secret")))


async def test_a_missing_role_says_what_to_add(yes: Endpoint, tmp_path: Path) -> None:
    spec = spec_of(yes.url, tmp_path, models=Models(base=ModelSpec(model="tiny", api_base=yes.url)))
    async with Evaluation.open(spec, clock=now) as evaluation:
        with pytest.raises(RunBlocked, match="models: optimizer:"):
            await evaluation.optimize_call([("user", "x")], purpose="test")
        assert not evaluation.has("optimizer")


async def test_events_reach_follower_and_journal(yes: Endpoint, tmp_path: Path) -> None:
    seen: list[Event] = []
    spec = spec_of(yes.url, tmp_path)
    async with Evaluation.open(spec, clock=now, on_event=seen.append) as evaluation:
        evaluation.event("generation", "One begins", number=1)
        evaluation.reject("near duplicate")
        ledger = evaluation.ledger
    assert seen == [Event(kind="generation", message="One begins", at=now(), data={"number": 1})]
    assert ledger.rejects == {"near duplicate": 1}


def test_a_fingerprint_ignores_money_address_and_speed(tmp_path: Path) -> None:
    spec = spec_of("http://127.0.0.1:1/v1", tmp_path)
    moved = spec_of("http://127.0.0.1:2/v1", tmp_path / "other", budget=Budget(calls=5), resume=True)
    assert fingerprint(spec) == fingerprint(moved)
    assert fingerprint(spec) != fingerprint(msgspec.structs.replace(spec, seed=1))
    assert fingerprint(spec) != fingerprint(msgspec.structs.replace(spec, method="ape"))


def test_rendering_keeps_history_and_fills_the_slot() -> None:
    example = Example(id="1", question="And {question}?", history=(("user", "Hi"), ("assistant", "Hello")))
    assert render("", "Say: {question}", example) == (
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Say: And {question}?"),
    )


async def test_a_rubric_is_judged_by_the_judge_model(tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(body: dict[str, Any]) -> str:
        if "response_format" not in body:
            return f"Answer to {body['messages'][-1]['content']}"
        asked.append(body["messages"][-1]["content"])
        if "task 1?" in asked[-1]:
            return "no idea"
        if "task 2?" in asked[-1] and "could not be read" not in asked[-1]:
            return "not yet"
        ids = body["response_format"]["json_schema"]["schema"]["properties"]["checks"]["items"]["properties"]["id"][
            "enum"
        ]
        checks = [{"id": name, "evidence": "", "verdict": "yes" if name == "c1" else "no"} for name in ids]
        reply = {"checks": checks, "injection_suspected": False, "critique": "Half is missing."}
        return msgspec.json.encode(reply).decode()

    judge = JudgeSpec(kind="rubric", rubric=("It answers.", "It is kind."))
    async with serve(answer) as endpoint:
        spec = spec_of(endpoint.url, tmp_path, tasks=(task_of(3, judge=judge),), budget=Budget(calls=20))
        task = spec.tasks[0]
        async with Evaluation.open(spec, clock=now) as evaluation:
            rollouts = await evaluation.rollouts("S", task, task.user_prompt, task.reflect)
            ledger = evaluation.ledger
    assert [rollout.score for rollout in rollouts] == [0.5, None, 0.5]
    assert rollouts[1].unscored == "judge unreadable"
    assert rollouts[0].critique == "Half is missing."
    assert ledger.roles["judge"].paid == 5
    assert ledger.roles["base"].paid == 3


async def test_the_budget_looks_ahead_to_the_judge(yes: Endpoint, tmp_path: Path) -> None:
    task = task_of(6, judge=JudgeSpec(kind="rubric"))
    spec = spec_of(yes.url, tmp_path, tasks=(task,), budget=Budget(calls=11))
    async with Evaluation.open(spec, clock=now) as evaluation:
        with pytest.raises(BudgetSpent):
            await evaluation.rollouts("S", task, task.user_prompt, task.reflect)
    assert yes.bodies == []
