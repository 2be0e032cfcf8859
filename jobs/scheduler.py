"""The scheduler's hands: one of any number of them is elected and does what ``schedule.py`` says is due."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from jobs import schedule
from jobs.errors import LeaseLost, QueueUnavailable
from jobs.lease import Held, under_lease
from jobs.metrics import Metrics
from jobs.queue import Queue
from jobs.schedule import BY_NAME, Plan
from registry import Registry, RegistryUnavailable, Settings

LEASE = "scheduler"
LEASE_SECONDS = 10.0
"""Shorter than a job's: while nobody is elected nothing fires, and a firing takes milliseconds."""

log = logging.getLogger("metaspo.jobs.scheduler")


class Scheduler:
    """One look at the clock is ``tick``. What it remembers is only since when it looked; losing that costs nothing."""

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

    async def tick(self) -> int:
        """Write what is due and ring for what waits; returns how many triggers were handed to the queue.

        Raises RegistryUnavailable, QueueUnavailable.
        """
        now = self.clock()
        snapshot = await self.registry.snapshot()
        plans = [Plan(view.domain, view.deployment) for view in snapshot.domains.values()]
        waiting = await self.registry.waiting_triggers()
        self.metrics.queue_depth.set(len(waiting))
        since = self._looked if self._looked is not None and self._looked <= now else now - schedule.LOOK_BACK
        for firing in schedule.due(plans, self.settings, since, now, frozenset((t.job, t.domain) for t in waiting)):
            if await self.registry.put_trigger(firing):
                self.metrics.firings.labels(firing.job).inc()
        self._looked = now
        return await self._hand_out()

    async def _hand_out(self) -> int:
        taken = await self.registry.take_triggers(100)
        for trigger in taken:
            job = BY_NAME.get(trigger.job)
            await self.queue.ring(trigger.id, job.lane if job else "upkeep")
        return len(taken)

    async def run(self, stop: asyncio.Event, holder: str) -> None:
        """Stand for election until ``stop``; while elected, tick."""
        while not stop.is_set():
            try:
                await under_lease(self.registry, LEASE, holder, lambda held: self._elected(held, stop), ttl=LEASE_SECONDS)
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


async def wait(stop: asyncio.Event, seconds: float) -> None:
    """Until ``stop`` is set, at most ``seconds``."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass
