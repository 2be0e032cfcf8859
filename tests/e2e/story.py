"""The whole loop, as a story that any language model can play in: traffic, search, approval, canary, promotion, harm,
rollback; and a worker, the scheduler and Redis are each killed once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from registry import Run, Sample
from tests.e2e.app import App, until
from tests.e2e.house import House

DOMAIN = "shop"


class Model(Protocol):
    """What the story needs of whoever answers: every request body it got, and a handle to slow it down."""

    calls: list[dict[str, Any]]
    delay: float


class Cast(NamedTuple):
    """Sizes and texts of one telling. ``before``: earlier traffic, put into the registry beside what is really asked.

    ``finalist``: what the operator tries when the gate let nothing pass; None where it must.
    """

    asks: int
    referenced: int
    before: Sequence[Sample]
    under_way: int
    wave: int
    waves: int
    harmful: str
    finalist: str | None
    patience: float


async def tell(house: House, app: App, model: Model, cast: Cast) -> Run:
    """Play it; asserts what must hold on the way. Returns the search's run."""
    registry = house.registry
    house.start("gateway", "gateway", "serve", "--workers", "2")
    for name in ("worker1", "worker2"):
        house.start(name, "jobs", "worker")
    await house.ready(app.http)
    run = await _searched(house, app, model, cast)
    number = await _approved(house, app, cast, run)
    house.kill("scheduler")
    house.start("scheduler2", "jobs", "scheduler")

    async def promoted() -> bool:
        return (await registry.deployment(DOMAIN)).stable == number

    for _ in range(cast.waves):
        await app.talk(cast.wave)
        if await promoted():
            break
    await until("the promotion", promoted, house, cast.patience)
    assert (await registry.deployment(DOMAIN)).holdback == 1

    # Redis is killed; requests go on being answered, and what was acknowledged is there afterwards
    before = app.answered
    outage = asyncio.create_task(house.kill_redis())
    await app.talk(cast.wave // 2)
    await outage
    assert app.answered == before + cast.wave // 2

    await _harmed_and_back(house, app, cast, number)
    await _audit_in_order(house)
    return run


async def _searched(house: House, app: App, model: Model, cast: Cast) -> Run:
    """Traffic, with references that come later; a scheduled run, whose worker is killed in the middle."""
    registry = house.registry
    await app.talk(cast.asks)
    await registry.record(cast.before, [])

    async def kept() -> bool:
        found = await registry.samples(DOMAIN, limit=5000)
        return len([s for s in found if s.reference]) >= cast.referenced

    await until("samples with references", kept, house)
    asked_by_users = len(model.calls)
    model.delay = 0.005
    house.start("scheduler", "jobs", "scheduler")

    async def searching() -> bool:
        return len(model.calls) > asked_by_users + cast.under_way

    await until("the scheduled search", searching, house, cast.patience)
    holder = await registry.lease_holder(f"job:optimize:{DOMAIN}")
    assert holder is not None
    dead = house.kill_pid(int(holder[0].split(":")[1]))

    async def ended() -> Run | None:
        return next((r for r in await registry.list_runs(DOMAIN) if r.state in {"done", "failed"}), None)

    run = await until("the end of the search", ended, house, cast.patience)
    assert run.state == "done", run.reason
    assert "resumed" in [e["kind"] for _, e in await registry.run_events(run.id)]
    searched = [repr((c["messages"], c.get("seed"))) for c in model.calls[asked_by_users:]]
    assert sum(n - 1 for n in Counter(searched).values()) <= 4, "only what was in the air is asked again"
    assert run.asked_by == "schedule"
    house.start(dead, "jobs", "worker")
    model.delay = 0.0
    return run


async def _approved(house: House, app: App, cast: Cast, run: Run) -> int:
    """The version on canary, by the operator's word: the one that passed the gate, else one tried by hand."""
    registry = house.registry
    if run.version is not None or cast.finalist is None:
        assert run.version == 2, run.reason
        number = run.version
        waiting = await until("the approval", lambda: registry.list_approvals(DOMAIN, waiting_only=True), house)
        await app.operate("POST", f"/api/approvals/{waiting[0].id}", {"decision": "approved", "why": "measured"})
    else:
        added = await app.operate("POST", f"/api/domains/{DOMAIN}/versions", {"system_prompt": cast.finalist})
        number = int(added["version"])
        move = {"version": number, "share": 0.2, "why": "not passed by the gate; tried by hand"}
        await app.operate("POST", f"/api/domains/{DOMAIN}/canary", move)

    async def on_canary() -> bool:
        return (await registry.deployment(DOMAIN)).canary == number

    await until("the canary", on_canary, house)
    return number


async def _harmed_and_back(house: House, app: App, cast: Cast, stable: int) -> None:
    """A harmful version by hand; it is rolled back by itself."""
    registry = house.registry
    added = await until("the registry", lambda: _add(app, cast.harmful), house)
    await app.operate("POST", f"/api/domains/{DOMAIN}/canary", {"version": added, "share": 0.45, "why": "looks fine"})

    async def rolled_back() -> bool:
        return bool((await registry.get_version(DOMAIN, added)).blocked)

    app.served.clear()
    for _ in range(cast.waves):
        await app.talk(cast.wave)
        if await rolled_back():
            break
    await until("the rollback", rolled_back, house, cast.patience)
    pointers = await registry.deployment(DOMAIN)
    assert (pointers.stable, pointers.canary) == (stable, None)
    await app.talk(2 * cast.wave)
    moved = next(e.at for e in await registry.history(DOMAIN, limit=20) if e.kind == "abort")
    assert any(v == str(added) for _, v in app.served) and app.served[-1][0] > moved
    late = max(sent for sent, version in app.served if version == str(added)) - moved
    print(f"seconds from the rollback to the last harmful answer of any gateway worker: {late:.3f}")
    assert late < 5, "both gateway workers have followed"
    app.versions.clear()
    await app.talk(40)
    assert str(added) not in app.versions and app.versions[str(stable)] > 20


async def _audit_in_order(house: House) -> None:
    """It tells the story without a gap."""
    history = list(reversed(await house.registry.history(DOMAIN, limit=1000)))
    assert [e.seq for e in history] == list(range(1, len(history) + 1))
    moves = [e.kind for e in history if e.after is not None and e.kind != "share"]
    assert moves[:2] == ["promote", "canary"] and moves[-2:] == ["canary", "abort"]
    assert moves.count("promote") == 2 and "holdback" in moves
    told = {e.kind: e for e in history}
    assert told["block"].actor == "jobs" and told["block"].why.startswith(("Quality fell", "Hard failures"))
    assert next(e for e in history if e.kind == "canary").actor == "ops"


async def _add(app: App, text: str) -> int | None:
    try:
        found = await app.operate("POST", f"/api/domains/{DOMAIN}/versions", {"system_prompt": text})
    except AssertionError:
        return None
    return int(found["version"])
