"""A worker dies in the middle of a search: another one goes on and pays for nothing twice."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jobs import optimize
from jobs.places import Places
from registry import Registry, Settings
from tests.jobs.conftest import Clock, samples, until, with_shop, work_for
from tests.jobs.stub_model import StubModel


def _name(body: dict[str, Any]) -> str:
    return repr((body["messages"], body.get("seed")))


@pytest.mark.parametrize("same_machine", [True, False])
async def test_the_next_worker_goes_on(
    registry: Registry, settings: Settings, clock: Clock, model: StubModel, same_machine: bool
) -> None:
    await with_shop(registry)
    await registry.record(samples(), [])
    model.delay = 0.01
    work = work_for(registry, settings, clock, "optimize", budget={"calls": 900})
    first = asyncio.create_task(optimize.run(work))

    async def well_under_way() -> bool:
        return model.answered > 250

    await until(well_under_way)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    if not same_machine:
        shutil.rmtree(Path(settings.home) / "runs")
    again = dataclasses.replace(work, places=Places(registry, "another worker"))
    await optimize.run(again)
    (run,) = await registry.list_runs("shop")
    assert run.state == "done", run.reason
    twice = [name for name, n in Counter(_name(c) for c in model.calls).items() if n > 1]
    in_the_air = settings.jobs.calls_in_flight
    assert len(twice) <= in_the_air, "only what was in the air when the worker died may be asked again"
    kinds = [e["kind"] for _, e in await registry.run_events(run.id)]
    assert "resumed" in kinds and kinds[-1] == "end"
