"""From traffic to a version, with a real registry, a real search and a model over HTTP."""

from __future__ import annotations

import asyncio

import msgspec

from jobs import optimize
from registry import Registry, Settings
from tests.jobs.conftest import TASKS, Clock, samples, shop, with_shop, work_for
from tests.jobs.stub_model import StubModel


async def test_a_better_prompt_becomes_a_version_and_waits_for_a_person(
    registry: Registry, settings: Settings, clock: Clock, model: StubModel
) -> None:
    await with_shop(registry)
    await registry.record(samples(), [])
    work = work_for(
        registry, settings, clock, "optimize", unseen=["movies"], budget={"calls": 2500}, options={"min_tasks": 2}
    )
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
