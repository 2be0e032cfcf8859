"""Scheduler, queue and workers together: each firing once, whoever dies."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from jobs import schedule
from jobs.errors import LeaseLost, NoWork, UnknownJob
from jobs.lease import Held, under_lease
from jobs.metrics import Metrics
from jobs.queue import Queue
from jobs.scheduler import Scheduler
from jobs.work import Work
from jobs.worker import MOST_ATTEMPTS, Worker, find, serve
from registry import Registry, RegistryUnavailable, Settings, Trigger
from tests.jobs.conftest import Clock, shop, until, with_shop

Job = Callable[[Work], Awaitable[str]]


@pytest_asyncio.fixture(loop_scope="function")
async def queue(redis_server: str, prefix: str) -> AsyncIterator[Queue]:
    async with Queue(redis_server, prefix) as opened:
        yield opened


class Noting:
    """Jobs that only note that they were done."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def __call__(self, name: str) -> Job:
        find(name)
        return self._do

    async def _do(self, work: Work) -> str:
        self.done.append(work.trigger.id)
        return "done"


def _trigger(clock: Clock, name: str = "a", job: str = "adapt") -> Trigger:
    return Trigger(id=name, job=job, domain="shop", at=clock(), by="test")


def _scheduler(registry: Registry, queue: Queue, settings: Settings, clock: Clock) -> Scheduler:
    return Scheduler(registry, queue, settings, metrics=Metrics(), clock=clock)


def _worker(registry: Registry, settings: Settings, clock: Clock, jobs: Callable[[str], Job]) -> Worker:
    return Worker(registry, settings, metrics=Metrics(), holder="w", clock=clock, jobs=jobs)


async def test_a_wish_is_done_once_by_one_of_two_workers(
    registry: Registry, queue: Queue, settings: Settings, clock: Clock, redis_server: str, prefix: str
) -> None:
    await with_shop(registry)
    jobs = Noting()
    stop = asyncio.Event()
    async with Queue(redis_server, prefix) as other:
        workers = [_worker(registry, settings, clock, jobs) for _ in range(2)]
        hands = [asyncio.create_task(serve(w, q, stop)) for w, q in zip(workers, (queue, other), strict=True)]
        scheduler = _scheduler(registry, queue, settings, clock)
        for n in range(20):
            await registry.put_trigger(_trigger(clock, f"wish{n}"))
        async with asyncio.timeout(20):
            while await registry.waiting_triggers():
                await scheduler.tick()
                clock.now += schedule.LOOK_AGAIN
                await asyncio.sleep(0.05)
        stop.set()
        await asyncio.gather(*hands)
    wishes = sorted(name for name in jobs.done if name.startswith("wish"))
    assert wishes == sorted(f"wish{n}" for n in range(20))


async def test_a_message_that_comes_twice(registry: Registry, settings: Settings, clock: Clock) -> None:
    await with_shop(registry)
    await registry.put_trigger(_trigger(clock))
    jobs = Noting()
    one, two = (_worker(registry, settings, clock, jobs) for _ in range(2))
    await asyncio.gather(*(one.attend("a") for _ in range(5)), two.attend("a"))
    await one.attend("a")
    assert jobs.done == ["a"]
    assert not await registry.put_trigger(_trigger(clock)), "its id is remembered"


async def test_two_schedulers_write_each_firing_once(
    registry: Registry, queue: Queue, settings: Settings, clock: Clock
) -> None:
    await with_shop(registry, shop(schedule="*/5 * * * *"))
    clock.now = clock.now // 300 * 300 - 1
    both = [_scheduler(registry, queue, settings, clock) for _ in range(2)]
    await asyncio.gather(*(s.tick() for s in both))
    for trigger in await registry.open_triggers():
        await registry.done_trigger(trigger.id)
    clock.now += 2
    await asyncio.gather(*(s.tick() for s in both))
    found = [t for t in await registry.open_triggers() if t.job == "optimize"]
    assert len(found) == 1
    for trigger in await registry.open_triggers():
        await registry.done_trigger(trigger.id)
    clock.now -= 60
    await _scheduler(registry, queue, settings, clock).tick()
    clock.now += 60
    await both[0].tick()
    assert [t for t in await registry.open_triggers() if t.job == "optimize"] == [], "nor after the clock jumped"


async def test_only_one_is_elected_and_another_follows(
    registry: Registry, queue: Queue, settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["jobs.scheduler"], "LEASE_SECONDS", 1.0)
    await with_shop(registry)
    one, two = (_scheduler(registry, queue, settings, clock) for _ in range(2))
    stops = asyncio.Event(), asyncio.Event()
    first = asyncio.create_task(one.run(stops[0]))

    async def elected() -> bool:
        return await registry.lease_holder("scheduler") is not None

    await until(elected)
    second = asyncio.create_task(two.run(stops[1]))
    await asyncio.sleep(0.2)
    assert two.metrics.registry.get_sample_value("metaspo_scheduler_elected") == 0
    stops[0].set()
    await first

    async def followed() -> bool:
        return two.metrics.registry.get_sample_value("metaspo_scheduler_elected") == 1

    await until(followed)
    stops[1].set()
    await second
    assert await registry.lease_holder("scheduler") is None


async def test_a_killed_workers_job_moves_on_when_its_lease_lapses(
    registry: Registry, queue: Queue, settings: Settings, clock: Clock
) -> None:
    await with_shop(registry)
    await registry.put_trigger(_trigger(clock))
    dead = await registry.acquire("job:adapt:shop", "killed", 1.0)
    assert dead is not None
    jobs = Noting()
    scheduler, worker = _scheduler(registry, queue, settings, clock), _worker(registry, settings, clock, jobs)
    await scheduler.tick()
    await worker.attend("a")
    assert jobs.done == [], "somebody still holds it"

    async def lapsed() -> bool:
        return await registry.lease_holder("job:adapt:shop") is None

    await until(lapsed)
    clock.now += schedule.LOOK_AGAIN + 0.1
    assert await scheduler.tick() >= 1, "it is rung for again"
    await worker.attend("a")
    assert jobs.done == ["a"]


async def test_stopping_gives_the_work_back(registry: Registry, settings: Settings, clock: Clock) -> None:
    began = asyncio.Event()

    async def long(work: Work) -> str:
        began.set()
        await asyncio.sleep(60)
        return ""

    await with_shop(registry)
    await registry.put_trigger(_trigger(clock))
    worker = _worker(registry, settings, clock, lambda _: long)
    attending = asyncio.create_task(worker.attend("a"))
    await began.wait()
    await worker.stop()
    await attending
    assert await registry.lease_holder("job:adapt:shop") is None
    assert await registry.get_trigger("a") is not None, "it waits for the next worker"


async def test_a_lost_lease_stops_the_work(registry: Registry) -> None:
    stopped = asyncio.Event()

    async def work(held: Held) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped.set()
            raise
        return ""

    doing = asyncio.create_task(under_lease(registry, "thing", "me", work, ttl=0.6))

    async def held() -> bool:
        return await registry.lease_holder("thing") is not None

    await until(held)
    mine = await registry.lease_holder("thing")
    assert mine is not None
    from registry import Lease

    await registry.release(Lease(name="thing", holder=mine[0], fence=mine[1], until=0))
    other = await registry.acquire("thing", "other", 30)
    assert other is not None and other.fence == mine[1] + 1
    with pytest.raises(LeaseLost):
        await doing
    assert stopped.is_set()
    assert (await registry.lease_holder("thing")) == ("other", other.fence), "what is another's is not released"


async def test_a_firing_that_nobody_survives_is_given_up(registry: Registry, settings: Settings, clock: Clock) -> None:
    tries = []

    async def dies(work: Work) -> str:
        tries.append(1)
        raise RegistryUnavailable("gone")

    await with_shop(registry)
    run = await registry.create_run("shop", request_id="abc")
    asked = Trigger(id="a", job="optimize", domain="shop", at=clock(), by="test", args={"run": run.id})
    await registry.put_trigger(asked)
    worker = _worker(registry, settings, clock, lambda _: dies)
    for _ in range(MOST_ATTEMPTS + 1):
        await worker.attend("a")
    assert len(tries) == MOST_ATTEMPTS
    assert await registry.get_trigger("a") is None
    ended = await registry.get_run(run.id)
    assert ended.state == "failed" and "none finished" in ended.reason


@pytest.mark.parametrize(
    ("raised", "outcome"),
    [(NoWork("quiet_week", "nothing"), "quiet_week"), (UnknownJob("no"), "failed"), (ZeroDivisionError(), "error")],
)
async def test_how_it_ended_is_a_metric(
    registry: Registry, settings: Settings, clock: Clock, raised: Any, outcome: str
) -> None:
    async def raises(_: Work) -> str:
        raise raised

    await with_shop(registry)
    await registry.put_trigger(_trigger(clock))
    worker = _worker(registry, settings, clock, lambda _: raises)
    await worker.attend("a")
    labels = {"job": "adapt", "outcome": outcome}
    assert worker.metrics.registry.get_sample_value("metaspo_job_duration_seconds_count", labels) == 1
    assert await registry.get_trigger("a") is None


async def test_what_a_person_approved_is_asked_for_once(
    registry: Registry, queue: Queue, settings: Settings, clock: Clock
) -> None:
    from registry import Approval

    await with_shop(registry)
    await registry.put_approval(
        Approval(id="ok", domain="shop", version=1, kind="canary", asked_at=clock(), reason="first")
    )
    scheduler = _scheduler(registry, queue, settings, clock)
    await scheduler.tick()
    assert [t for t in await registry.open_triggers() if t.job == "approval"] == []
    await registry.decide_approval("ok", "approved", by="ops", why="looks good")
    for _ in range(3):
        clock.now += 2
        await scheduler.tick()
    (found,) = [t for t in await registry.open_triggers() if t.job == "approval"]
    assert found.args == {"approval": "ok"}


async def test_a_run_whose_asker_died_is_taken_up(
    registry: Registry, queue: Queue, settings: Settings, clock: Clock
) -> None:
    await with_shop(registry)
    run = await registry.create_run("shop", asked_by="ops", request_id="xyz")
    scheduler = _scheduler(registry, queue, settings, clock)
    await scheduler.tick()
    clock.now += 60
    await scheduler.tick()
    (found,) = [t for t in await registry.open_triggers() if t.job == "optimize"]
    assert found.id == f"optimize-{run.id}" and found.args["run"] == run.id
