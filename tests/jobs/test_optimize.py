"""From traffic to a version, with a real registry, a real search and a model over HTTP."""

from __future__ import annotations

import asyncio

import msgspec

from jobs import optimize, searchplan
from registry import Lineage, Registry, Settings
from tests.jobs.conftest import TASKS, Clock, samples, shop, with_shop, work_for
from tests.jobs.stub_model import StubModel


async def test_a_better_prompt_becomes_a_version_and_waits_for_a_person(
    registry: Registry, settings: Settings, clock: Clock, model: StubModel
) -> None:
    await with_shop(registry)
    await registry.record(samples(), [])
    work = work_for(registry, settings, clock, "optimize", unseen=["movies"], budget={"calls": 2500})
    said = await optimize.run(work)
    (run,) = await registry.list_runs("shop")
    assert run.state == "done", run.reason
    assert run.gate is not None and run.gate["outcome"] == "PASS", run.reason
    assert run.version == 2 and "version 2" in said
    version = await registry.get_version("shop", 2)
    assert version.lineage.run == run.id and version.lineage.parent == 1
    assert set(version.lineage.datasets) == set(run.datasets)
    assert run.result is not None
    assert set(run.result["winner_scores"]["unseen"]["tasks"]) == {"movies"}
    assert run.calls["base"] == len(model.calls), "every call is in the ledger, and none was made twice"
    counted = work.metrics.registry.get_sample_value("metaspo_run_calls_total", {"domain": "shop", "role": "base"})
    assert counted == len(model.calls)
    (approval,) = await registry.list_approvals()
    assert (approval.kind, approval.version, approval.run) == ("canary", 2, run.id)
    assert "manual" in approval.reason and "first promotion" in approval.reason
    events = [e for _, e in await registry.run_events(run.id)]
    kinds = [e["kind"] for e in events]
    assert kinds[0] == "plan" and kinds[-1] == "end" and "generation" in kinds
    assert await registry.paid(run.id) == {}, "the shared journal goes when the run is over"


async def test_two_searches_share_the_places_at_their_provider(
    registry: Registry, settings: Settings, clock: Clock, model: StubModel
) -> None:
    narrow = settings.model_copy(update={"jobs": settings.jobs.model_copy(update={"calls_in_flight": 3})})
    for name in ("one", "two"):
        await with_shop(registry, msgspec.structs.replace(shop(), name=name))
        await registry.record(samples(160, TASKS[:2], domain=name), [])
    model.delay = 0.002
    both = [work_for(registry, narrow, clock, "optimize", domain=d, budget={"calls": 150}) for d in ("one", "two")]
    await asyncio.gather(*(optimize.run(work) for work in both))
    assert model.most_at_once == 3


async def test_every_attempt_since_the_last_promotion_makes_the_gate_stricter(
    registry: Registry, settings: Settings, clock: Clock, model: StubModel
) -> None:
    """The same evidence at the first and at the twentieth attempt: the interval of the gate's table is wider."""
    await with_shop(registry)
    await registry.record(samples(names=TASKS[:2]), [])
    domain = await registry.get_domain("shop")
    for n in range(19):
        old = await registry.create_run("shop", request_id=f"old{n}")
        gated = msgspec.structs.replace(old, state="done", gate={"outcome": "FAIL"}, ended_at=clock() + n + 1)
        await registry.update_run(gated)
    never = await registry.create_run("shop", request_id="never-gated")
    await registry.update_run(msgspec.structs.replace(never, state="failed", ended_at=clock() + 50))
    clock.now += 100
    work = work_for(registry, settings, clock, "optimize")
    plan = await searchplan.decide(work, domain, searchplan.Wishes())
    assert plan.attempt == 20
    spec = await searchplan.spec(work, domain, never, plan)
    assert spec.standing.attempt == 20 and spec.standing.live
    relaxed = settings.model_copy(update={"jobs": settings.jobs.model_copy(update={"spend_alpha": False})})
    plan = await searchplan.decide(work_for(registry, relaxed, clock, "optimize"), domain, searchplan.Wishes())
    assert plan.attempt is None
    await registry.add_version("shop", "Another one.", lineage=Lineage(author="test"))
    await registry.promote("shop", 2, actor="ops", why="it is better")
    plan = await searchplan.decide(work, domain, searchplan.Wishes())
    assert plan.attempt == 1, "a promotion begins a new count"


async def test_without_the_safety_suites_nothing_passes(
    registry: Registry, settings: Settings, clock: Clock, model: StubModel
) -> None:
    await with_shop(registry)
    await registry.record(samples(names=TASKS[:2]), [])
    args = {"budget": {"calls": 2500}, "options": {"safety_per_suite": 0}}
    await optimize.run(work_for(registry, settings, clock, "optimize", **args))
    (run,) = await registry.list_runs("shop")
    assert run.gate is not None and run.gate["outcome"] == "INCONCLUSIVE"
    assert "unsafe" in run.reason and run.version is None


async def test_a_later_prompt_is_compared_with_the_first_one_too(
    registry: Registry, settings: Settings, clock: Clock, model: StubModel
) -> None:
    """The incumbent is version 2; the gate's row ``seed`` is measured against version 1."""
    await with_shop(registry)
    await registry.add_version("shop", "You are a very helpful assistant.", lineage=Lineage(author="test"))
    await registry.promote("shop", 2, actor="ops", why="a little better")
    await registry.record(samples(names=TASKS[:2]), [])
    await optimize.run(work_for(registry, settings, clock, "optimize", budget={"calls": 2500}))
    (run,) = await registry.list_runs("shop")
    assert run.incumbent == 2 and run.gate is not None
    rows = {row["name"]: row for row in run.gate["table"]}
    assert rows["seed"]["passed"] is True and rows["seed"]["value"] > 0.1
    assert "95% interval" in rows["interval"]["note"], "the first attempt since the promotion"
    assert len(model.calls) <= 2500
