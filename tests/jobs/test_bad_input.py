"""Whatever is wrong, a run ends with its reason on it, and a metric counts the cause."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from jobs import judge, optimize
from jobs.errors import NoWork
from jobs.work import Work
from registry import Domain, Registry, Run, Settings, Task
from tests.jobs.conftest import TASKS, Clock, samples, shop, task, until, with_shop, work_for
from tests.jobs.stub_model import StubModel


async def _refused(work: Work, cause: str) -> Run:
    """The run's record after a job that could not be done; the cause must be counted."""
    with pytest.raises(NoWork) as told:
        await optimize.run(work)
    assert told.value.cause == cause
    counted = work.metrics.registry.get_sample_value(
        "metaspo_run_refused_total", {"domain": work.trigger.domain, "cause": cause}
    )
    assert counted == 1
    (run, *_) = await work.registry.list_runs(work.trigger.domain)
    assert run.state == "failed" and run.reason == str(told.value)
    assert await work.registry.live_run(work.trigger.domain) is None, "the next run may begin"
    return run


async def test_no_samples(registry: Registry, settings: Settings, clock: Clock) -> None:
    await with_shop(registry)
    run = await _refused(work_for(registry, settings, clock, "optimize"), "no_samples")
    assert "send traffic" in run.reason


async def test_one_task_only(registry: Registry, settings: Settings, clock: Clock) -> None:
    await with_shop(registry)
    await registry.record(samples(names=("products",)), [])
    run = await _refused(work_for(registry, settings, clock, "optimize"), "one_task")
    assert "products" in run.reason and "needs 2" in run.reason


async def test_fewer_tasks_than_the_gate_counts(registry: Registry, settings: Settings, clock: Clock) -> None:
    await with_shop(registry)
    await registry.record(samples(names=TASKS[:2]), [])
    three = settings.model_copy(update={"jobs": settings.jobs.model_copy(update={"min_tasks": 3})})
    run = await _refused(work_for(registry, three, clock, "optimize"), "too_few_tasks")
    assert "jobs.min_tasks" in run.reason and not run.calls


async def test_too_few_examples(registry: Registry, settings: Settings, clock: Clock) -> None:
    await with_shop(registry)
    await registry.record(samples(30), [])
    run = await _refused(work_for(registry, settings, clock, "optimize"), "too_few_examples")
    assert "of 50 holdout" in run.reason


async def test_no_references_and_no_judge(registry: Registry, settings: Settings, clock: Clock) -> None:
    await with_shop(registry)
    await registry.record(samples(reference=None), [])
    await _refused(work_for(registry, settings, clock, "optimize"), "no_references")


async def test_a_judge_that_nobody_calibrated(registry: Registry, settings: Settings, clock: Clock) -> None:
    tasks = {name: task(kind="rubric", labels=()) for name in ("products", "restaurants")}
    await with_shop(registry, shop(judge_model="judge", tasks=tasks))
    await registry.record(samples(reference=None), [])
    run = await _refused(work_for(registry, settings, clock, "optimize"), "no_references")
    assert "not calibrated" in run.reason


@pytest.mark.parametrize(
    ("changes", "cause", "word"),
    [
        ({"base_model": "bse"}, "unknown_model", "did you mean 'base'"),
        ({"base_model": None}, "no_base_model", "base_model"),
        ({"optimizer_model": "gpt-9"}, "unknown_model", "optimizer"),
    ],
)
async def test_unknown_model(
    registry: Registry, settings: Settings, clock: Clock, changes: dict[str, Any], cause: str, word: str
) -> None:
    await with_shop(registry, shop(**changes))
    await registry.record(samples(), [])
    run = await _refused(work_for(registry, settings, clock, "optimize"), cause)
    assert word in run.reason


@pytest.mark.parametrize(
    "args", [{"budgte": 1}, {"method": "magic"}, {"unseen": 7}, {"most": [1, 2]}, {"options": {"min_tasks": 2}}]
)
async def test_a_wish_that_does_not_exist(
    registry: Registry, settings: Settings, clock: Clock, args: dict[str, Any]
) -> None:
    await with_shop(registry)
    await _refused(work_for(registry, settings, clock, "optimize", **args), "bad_request")


async def test_a_budget_too_small_to_search(registry: Registry, settings: Settings, clock: Clock) -> None:
    await with_shop(registry)
    await registry.record(samples(), [])
    run = await _refused(work_for(registry, settings, clock, "optimize", budget={"calls": 10}), "blocked")
    assert "60 calls" in run.reason


async def test_a_budget_that_ends_the_search_keeps_the_best_and_promotes_nothing(
    registry: Registry, settings: Settings, clock: Clock, model: StubModel
) -> None:
    await with_shop(registry)
    await registry.record(samples(), [])
    await optimize.run(work_for(registry, settings, clock, "optimize", budget={"calls": 90}))
    (run,) = await registry.list_runs("shop")
    assert run.state == "done" and run.version is None
    assert run.result is not None and run.result["winner"]
    assert len(model.calls) <= 90
    assert [v.number for v in await registry.list_versions("shop")] == [1]


async def test_the_days_budget_is_spent(registry: Registry, settings: Settings, clock: Clock) -> None:
    await with_shop(registry)
    await registry.record(samples(), [])
    limited = settings.model_copy(update={"jobs": settings.jobs.model_copy(update={"search_calls_per_day": 50})})
    await optimize.run(work_for(registry, limited, clock, "optimize", budget={"calls": 90}))
    clock.now += 60
    run = await _refused(work_for(registry, limited, clock, "optimize", budget={"calls": 90}), "daily_budget")
    assert "limit is 50" in run.reason
    clock.now += 86_400
    await registry.record(samples(260, at=clock.now), [])


async def test_the_days_budget_ends_a_search_under_way(
    registry: Registry, settings: Settings, clock: Clock, model: StubModel
) -> None:
    await with_shop(registry)
    await registry.record(samples(), [])
    limited = settings.model_copy(update={"jobs": settings.jobs.model_copy(update={"search_calls_per_day": 100})})
    model.delay = 0.02
    args = {"budget": {"calls": 2500}, "options": {"headroom_cells": 0}}
    await optimize.run(work_for(registry, limited, clock, "optimize", **args))
    (run,) = await registry.list_runs("shop")
    assert 100 <= len(model.calls) <= 500, "what was paid before the sum was looked at again, and no more"
    assert run.state == "done" and "the limit is 100" in run.reason and run.version is None


async def test_two_at_once(registry: Registry, settings: Settings, clock: Clock, model: StubModel) -> None:
    await with_shop(registry)
    await registry.record(samples(), [])
    model.delay = 0.02
    first = asyncio.create_task(optimize.run(work_for(registry, settings, clock, "optimize", budget={"calls": 300})))

    async def running() -> bool:
        found = await registry.live_run("shop")
        return found is not None and found.state == "running"

    await until(running)
    second = work_for(registry, settings, clock, "optimize")
    with pytest.raises(NoWork) as told:
        await optimize.run(second)
    assert told.value.cause == "already_running"
    await first
    assert len(await registry.list_runs("shop")) == 1


async def test_the_domain_is_deleted_under_way(
    registry: Registry, settings: Settings, clock: Clock, model: StubModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.progress.LOOK_EVERY", 0.1)
    await with_shop(registry)
    await registry.record(samples(), [])
    model.delay = 0.05
    work = work_for(registry, settings, clock, "optimize")
    searching = asyncio.create_task(optimize.run(work))

    async def called() -> bool:
        return len(model.calls) > 5

    await until(called)
    await registry.delete_domain("shop", "operator", "not needed any more")
    with pytest.raises(NoWork) as told:
        await searching
    assert told.value.cause == "domain_deleted"
    made = len(model.calls)
    await asyncio.sleep(0.2)
    assert len(model.calls) == made, "nothing is paid for after the end"
    (run,) = await registry.list_runs("shop")
    assert run.state == "cancelled" and "deleted" in run.reason


async def test_an_operator_cancels(
    registry: Registry, settings: Settings, clock: Clock, model: StubModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    import msgspec

    monkeypatch.setattr("jobs.progress.LOOK_EVERY", 0.1)
    await with_shop(registry)
    await registry.record(samples(), [])
    model.delay = 0.05
    searching = asyncio.create_task(optimize.run(work_for(registry, settings, clock, "optimize")))

    async def called() -> bool:
        return len(model.calls) > 5

    await until(called)
    run = await registry.live_run("shop")
    assert run is not None
    changed = msgspec.structs.replace(run, state="cancelled", reason="not today")
    await registry.update_run(changed, fence=1)
    with pytest.raises(NoWork) as told:
        await searching
    assert told.value.cause == "cancelled" and "not today" in str(told.value)


async def test_the_models_endpoint_is_down_and_the_run_is_resumed(
    registry: Registry, settings: Settings, clock: Clock, model: StubModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optimizer.models.client._LONGEST_WAIT", 0.01)
    await with_shop(registry)
    await registry.record(samples(), [])
    model.down_after = 150
    run = await _refused(work_for(registry, settings, clock, "optimize", budget={"calls": 600}), "model_down")
    assert f"metaspo runs resume {run.id}" in run.reason
    answered = model.answered
    spent = await registry.add_usage({"searching": {"calls": 0.0}}, f"day-{int(clock() // 86_400)}", 10)
    assert spent["searching"]["calls"] == answered, "a failed search counts towards the day's budget too"
    model.down_after = None
    await optimize.run(work_for(registry, settings, clock, "optimize", resume=run.id))
    (resumed,) = [r for r in await registry.list_runs("shop") if r.state == "done"]
    assert resumed.id != run.id
    assert model.answered > answered
    assert model.answered == resumed.calls["base"], "what the first attempt paid for was not paid again"


async def test_what_is_complete_or_unknown_is_not_resumed(registry: Registry, settings: Settings, clock: Clock) -> None:
    await with_shop(registry)
    await _refused(work_for(registry, settings, clock, "optimize", resume="shop-nothing"), "run_gone")


async def test_a_judge_that_answers_nonsense(
    registry: Registry, settings: Settings, clock: Clock, model: StubModel
) -> None:
    tasks = {"products": Task(user_prompt="Review:\n{question}", judge=task(kind="rubric", labels=()).judge)}
    await with_shop(registry, shop(judge_model="judge", tasks=tasks))
    await registry.record(samples(30, names=("products",), reference=None), [])
    model.judge = "nonsense"
    work = work_for(registry, settings, clock, "judge")
    said = await judge.run(work)
    assert said.startswith("0 of")
    kept = await registry.samples("shop")
    assert all(s.score is None for s in kept) and any(s.unscored == "unreadable" for s in kept)
    counted = work.metrics.registry.get_sample_value(
        "metaspo_unscored_total", {"domain": "shop", "reason": "unreadable"}
    )
    assert counted and counted >= 25


async def test_a_domain_that_does_not_exist(registry: Registry, settings: Settings, clock: Clock) -> None:
    with pytest.raises(NoWork) as told:
        await optimize.run(work_for(registry, settings, clock, "optimize", domain="nowhere"))
    assert told.value.cause == "domain_deleted"


async def test_the_clock_jumps_during_a_search(
    registry: Registry, settings: Settings, clock: Clock, model: StubModel
) -> None:
    await with_shop(registry)
    await registry.record(samples(), [])
    jumps = iter([0.0, -7_200.0, 86_400.0, -100.0] * 10**6)

    def jumping() -> float:
        return clock.now + next(jumps)

    work = work_for(registry, settings, clock, "optimize", budget={"calls": 300})
    await optimize.run(dataclasses.replace(work, clock=jumping))
    (run,) = await registry.list_runs("shop")
    assert run.state == "done" and run.reason


async def test_global_needs_two_domains(registry: Registry, settings: Settings, clock: Clock) -> None:
    await registry.put_domain(Domain(name="global", parent=None, base_model="base"), actor="test")
    await with_shop(registry, shop(meta_learning=True))
    await registry.record(samples(), [])
    await _refused(work_for(registry, settings, clock, "global", domain="global"), "too_few_domains")
