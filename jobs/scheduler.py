"""The scheduler's hands: one of any number of them is elected and does what ``schedule.py`` says is due."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from jobs import schedule
from jobs.connect import open_both
from jobs.errors import LeaseLost, QueueUnavailable
from jobs.lease import Held, under_lease
from jobs.metrics import Metrics, start_server
from jobs.process import holder_name, until_told
from jobs.queue import Queue
from jobs.schedule import BY_NAME, Plan
from registry import Registry, RegistryUnavailable, Run, Settings

LEASE = "scheduler"
LEASE_SECONDS = 10.0
"""At most so long, and never longer than a job's: while nobody is elected nothing fires, and a firing takes
milliseconds."""

log = logging.getLogger("metaspo.jobs.scheduler")


class Scheduler:
    """One look at the clock is ``tick``. What it remembers only saves work; a new one that remembers nothing does the
    same.
    """

    def __init__(
        self,
        registry: Registry,
        queue: Queue,
        settings: Settings,
        *,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.registry = registry
        self.queue = queue
        self.settings = settings
        self.metrics = metrics
        self.clock = clock
        self._looked: float | None = None
        self._swept = float("-inf")
        self._rung: dict[str, tuple[float, float]] = {}
        """Trigger id -> (when it may be rung again, how long to wait after that)."""

    async def tick(self) -> int:
        """Write what is due and ring for what waits; returns how many triggers were handed to the queue.

        Raises RegistryUnavailable, QueueUnavailable.
        """
        now = self.clock()
        waiting = await self.registry.open_triggers()
        self.metrics.queue_depth.set(len(waiting))
        if self._looked is None or not 0 <= now - self._looked < schedule.PLANS_EVERY:
            await self._write_due(now, frozenset((t.job, t.domain) for t in waiting))
        return await self._hand_out(now)

    async def _write_due(self, now: float, waiting: frozenset[tuple[str, str]]) -> None:
        snapshot = await self.registry.snapshot()
        plans = [Plan(view.domain, view.deployment) for view in snapshot.domains.values()]
        since = self._looked if self._looked is not None and self._looked <= now else now - schedule.LOOK_BACK
        asked = [
            *schedule.due(plans, self.settings, since, now, waiting),
            *schedule.approved(await self.registry.list_approvals(), now),
            *schedule.orphaned(await self._live_runs(plans, now), now),
        ]
        for firing in asked:
            if await self.registry.put_trigger(firing):
                self.metrics.firings.labels(firing.job).inc()
        self._looked = now

    async def _live_runs(self, plans: list[Plan], now: float) -> list[Run]:
        """Runs that are queued or running; looked up rarely, since only a dead asker leaves one behind."""
        if 0 <= now - self._swept < schedule.SWEEP_EVERY:
            return []
        self._swept = now
        found = [await self.registry.live_run(plan.domain.name) for plan in plans]
        return [run for run in found if run is not None]

    async def _hand_out(self, now: float) -> int:
        """Ring for each trigger that waits and that nobody works on: at first at once, then ever more rarely."""
        rung = 0
        taken = await self.registry.take_triggers(200, again_after=schedule.LOOK_AGAIN)
        for trigger in taken:
            if await self.registry.lease_holder(f"job:{trigger.job}:{trigger.domain}") is not None:
                self._rung.pop(trigger.id, None)
                continue
            at, pause = self._rung.get(trigger.id, (now, schedule.LOOK_AGAIN))
            if at <= now or at - now > schedule.RING_AT_LEAST_EVERY:
                job = BY_NAME.get(trigger.job)
                await self.queue.ring(trigger.id, job.lane if job else "upkeep")
                self._rung[trigger.id] = (now + pause, min(2 * pause, schedule.RING_AT_LEAST_EVERY))
                rung += 1
        if len(self._rung) > 10_000:
            self._rung.clear()
        return rung

    async def run(self, stop: asyncio.Event) -> None:
        """Stand for election until ``stop``; while elected, tick."""
        holder = holder_name()
        ttl = min(LEASE_SECONDS, self.settings.jobs.lease_seconds)
        while not stop.is_set():
            try:
                await under_lease(self.registry, LEASE, holder, lambda held: self._elected(held, stop), ttl=ttl)
            except (RegistryUnavailable, QueueUnavailable, LeaseLost) as error:
                log.warning("Nothing fires for the moment: %s", error)
            finally:
                self.metrics.scheduler_elected.set(0)
            await wait(stop, 1.0)

    async def _elected(self, held: Held, stop: asyncio.Event) -> None:
        self.metrics.scheduler_elected.set(1)
        log.info("Elected.")
        while not stop.is_set():
            held.check()
            await self.tick()
            await wait(stop, schedule.TICK)


async def scheduler(settings: Settings, *, metrics: str | None = None) -> None:
    """Schedule until SIGTERM or SIGINT. Any number may run. ``metrics``: HOST:PORT to serve them at.

    Raises JobsError, RegistryUnavailable when Redis stays away at the start.
    """
    meters = Metrics()
    close = start_server(meters, metrics) if metrics else None
    try:
        async with open_both(settings) as (registry, queue):
            await until_told(Scheduler(registry, queue, settings, metrics=meters).run)
    finally:
        if close:
            close()


async def wait(stop: asyncio.Event, seconds: float) -> None:
    """Until ``stop`` is set, at most ``seconds``."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass
