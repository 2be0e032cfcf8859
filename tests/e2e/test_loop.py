"""The whole loop with real processes: traffic, search, approval, canary, promotion, harm, rollback; and three kills.

A stub upstream answers over HTTP; gateway, two workers, scheduler and embedded Redis are the product's own processes. A
worker, the scheduler and Redis are each killed once on the way.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from registry import Run
from tests.e2e.app import APP, OPS, App, Ask, until
from tests.e2e.house import House
from tests.jobs.conftest import review
from tests.jobs.stub_model import StubModel

TASKS = ("products", "restaurants", "hotels")
HARMFUL = "You are a helpful assistant. HARM"


def _asks(number: int) -> Ask:
    task = TASKS[number % len(TASKS)]
    text, label = review(number // len(TASKS), task)
    return Ask(task, f"Review:\n{text}", label)


def _config(upstream: str) -> dict[str, Any]:
    task = {
        "user_prompt": "Review:\n{question}",
        "judge": {"kind": "choice", "labels": ["positive", "negative"], "lenient": True},
    }
    return {
        "upstreams": [{"name": "stub", "base_url": upstream, "api_key": "k"}],
        "models": [{"name": "base", "upstream": "stub"}],
        "keys": [
            {"name": "app", "role": "caller", "key": APP, "domain": "shop"},
            {"name": "ops", "role": "operator", "key": OPS},
        ],
        "domains": {
            "shop": {
                "system_prompt": "You are a helpful assistant.",
                "sample": {"share": 1.0, "per_hour": 100_000},
                "base_model": "base",
                "schedule": "* * * * *",
                "budget": {"calls": 2000},
                "promotion": "auto",
                "canary": {"stages": [0.2, 0.5], "dwell_hours": [0.0005, 0.0005], "n_final": 200, "margin": 0.2},
                "tasks": dict.fromkeys(TASKS, task),
            }
        },
        "gateway": {"sample_per_key_share": 1.0},
        "jobs": {"lease_seconds": 3.0, "judge_every_minutes": 0.03, "canary_every_seconds": 1.0, "calls_in_flight": 4},
    }  # fmt: skip


@pytest.mark.timeout(600)  # half a minute of work; a crowded machine may give it little of its time
async def test_from_live_traffic_to_a_promoted_prompt_and_back_when_it_harms(tmp_path: Path, free_port: int) -> None:
    async with (
        StubModel() as model,
        House(tmp_path, _config(model.url), free_port) as house,
        aiohttp.ClientSession() as http,
    ):
        registry, app = house.registry, App(house, http, _asks)
        house.start("gateway", "gateway", "serve", "--workers", "2")
        for name in ("worker1", "worker2"):
            house.start(name, "jobs", "worker")
        await house.ready(http)

        # traffic, with references that come later
        await app.talk(750)

        async def kept() -> bool:
            return len([s for s in await registry.samples("shop", limit=5000) if s.reference]) >= 550

        await until("samples with references", kept, house)
        asked_by_users = len(model.calls)

        # a scheduled run; the worker that searches is killed in the middle
        model.delay = 0.005
        house.start("scheduler", "jobs", "scheduler")

        async def searching() -> bool:
            return len(model.calls) > asked_by_users + 200

        await until("the scheduled search", searching, house)
        holder = await registry.lease_holder("job:optimize:shop")
        assert holder is not None
        dead = house.kill_pid(int(holder[0].split(":")[1]))

        async def found() -> Run | None:
            return next((r for r in await registry.list_runs("shop") if r.state == "done"), None)

        run = await until("the end of the search", found, house)
        assert run.version == 2, run.reason
        assert "resumed" in [e["kind"] for _, e in await registry.run_events(run.id)]
        searched = [repr((c["messages"], c.get("seed"))) for c in model.calls[asked_by_users:]]
        assert sum(n - 1 for n in Counter(searched).values()) <= 4, "only what was in the air is asked again"
        assert run.asked_by == "schedule"
        house.start(dead, "jobs", "worker")
        model.delay = 0.0

        # the operator approves the first version; the scheduler is killed; the canary grows and promotes
        approval = await until("the approval", lambda: registry.list_approvals("shop", waiting_only=True), house)
        await app.operate("POST", f"/api/approvals/{approval[0].id}", {"decision": "approved", "why": "measured"})

        async def on_canary() -> bool:
            return (await registry.deployment("shop")).canary == 2

        await until("the canary", on_canary, house)
        house.kill("scheduler")
        house.start("scheduler2", "jobs", "scheduler")

        async def promoted() -> bool:
            return (await registry.deployment("shop")).stable == 2

        for _ in range(12):
            await app.talk(100)
            if await promoted():
                break
        await until("the promotion", promoted, house)
        assert (await registry.deployment("shop")).holdback == 1

        # Redis is killed; requests go on being answered, and what was acknowledged is there afterwards
        before = app.answered
        outage = asyncio.create_task(house.kill_redis())
        await app.talk(60)
        await outage
        assert app.answered == before + 60

        # a harmful version by hand; it is rolled back by itself
        added = await until("the registry", lambda: _add(app), house)
        await app.operate("POST", "/api/domains/shop/canary", {"version": added, "share": 0.4, "why": "looks fine"})

        async def rolled_back() -> bool:
            return bool((await registry.get_version("shop", added)).blocked)

        app.served.clear()
        for _ in range(12):
            await app.talk(100)
            if await rolled_back():
                break
        await until("the rollback", rolled_back, house)
        pointers = await registry.deployment("shop")
        assert (pointers.stable, pointers.canary) == (2, None)
        await app.talk(200)
        moved = next(e.at for e in await registry.history("shop", limit=20) if e.kind == "abort")
        assert any(v == str(added) for _, v in app.served) and app.served[-1][0] > moved
        late = max(sent for sent, version in app.served if version == str(added)) - moved
        print(f"seconds from the rollback to the last harmful answer of any gateway worker: {late:.3f}")
        assert late < 5, "both gateway workers have followed"
        app.versions.clear()
        await app.talk(40)
        assert str(added) not in app.versions and app.versions["2"] > 20

        # the audit tells the story in order, without a gap
        history = list(reversed(await registry.history("shop", limit=1000)))
        assert [e.seq for e in history] == list(range(1, len(history) + 1))
        story = [(e.kind, e.after.stable if e.after else None) for e in history if e.after is not None]
        moves = [kind for kind, _ in story if kind != "share"]
        assert moves[:2] == ["promote", "canary"] and moves[-2:] == ["canary", "abort"]
        assert moves.count("promote") == 2 and "holdback" in moves
        told = {e.kind: e for e in history}
        assert told["block"].actor == "jobs" and told["block"].why.startswith(("Quality fell", "Hard failures"))
        assert next(e for e in history if e.kind == "canary").actor == "ops"


async def _add(app: App) -> int | None:
    try:
        found = await app.operate("POST", "/api/domains/shop/versions", {"system_prompt": HARMFUL})
    except AssertionError:
        return None
    return int(found["version"])
