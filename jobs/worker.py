"""A worker: takes what the queue says, does it under a lease, and leaves nothing behind.

For one message (``attend``):

1. the lease of (job, domain): one of a kind per domain at a time. When it is taken the trigger stays open and comes
   again;
2. is the trigger still open? A message may come twice;
3. one start more: ten starts in a row that came to no end, and the firing is given up;
4. the job, found by name. How it ended is a metric, and for searches it stands on the run;
5. the trigger is done.

When the registry cannot be reached, or the worker is told to stop, the trigger stays open and somebody takes it up
again: after a stop at once (the lease is given back), after a kill when the lease lapses.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable

from jobs import scores
from jobs.connect import open_both
from jobs.errors import JobsError, LeaseLost, NoWork, UnknownJob
from jobs.lease import Held, under_lease
from jobs.metrics import Metrics, start_server
from jobs.places import Places
from jobs.process import end_tasks, holder_name, until_told
from jobs.queue import LANES, Lane, Queue
from jobs.schedule import BY_NAME
from jobs.work import Work
from registry import Conflict, Registry, RegistryError, RegistryUnavailable, Settings, Trigger

MOST_ATTEMPTS = 10
"""A firing that so many workers took and none finished is given up: it may be what kills them."""
FORGET_ATTEMPTS = 7 * 86_400.0

STOP_WITHIN = 10.0
"""Seconds that work in hand gets to stop after SIGTERM."""

log = logging.getLogger("metaspo.jobs.worker")

_WHERE = {
    "canary": "jobs.canary_job",
    "judge": "jobs.judge",
    "drift": "jobs.drift",
    "curate": "jobs.datasets",
    "calibrate": "jobs.calibrate",
    "optimize": "jobs.optimize",
    "global": "jobs.optimize",
    "adapt": "jobs.adapt",
    "shadow": "jobs.shadow",
    "tell": "jobs.tell",
    "retention": "jobs.retention",
    "report": "jobs.report",
    "approval": "jobs.advance",
}


Job = Callable[[Work], Awaitable[str]]


def find(name: str) -> Job:
    """The function that does job ``name``: ``run`` of its module, loaded when first needed. Raises UnknownJob."""
    if name not in _WHERE:
        raise UnknownJob(f"No job is called {name!r}; jobs: {', '.join(sorted(_WHERE))}.")
    run: Job = importlib.import_module(_WHERE[name]).run
    return run


async def give_up(work: Work) -> None:
    """Raises NoWork, after the job has told whoever waits for it (``abandon`` of its module, where there is one)."""
    reason = f"{MOST_ATTEMPTS} workers took this firing and none finished it."
    abandon = getattr(importlib.import_module(_WHERE[work.trigger.job]), "abandon", None)
    if abandon is not None:
        await abandon(work, reason)
    raise NoWork("given_up", reason)


class Worker:
    """The work of one process. ``holder`` names it in leases."""

    def __init__(
        self,
        registry: Registry,
        settings: Settings,
        *,
        metrics: Metrics,
        holder: str,
        clock: Callable[[], float] = time.time,
        ids: Callable[[], str] = lambda: uuid.uuid4().hex,
        jobs: Callable[[str], Job] = find,
    ) -> None:
        self.registry = registry
        self.settings = settings
        self.metrics = metrics
        self.holder = holder
        self.clock = clock
        self.ids = ids
        self.jobs = jobs
        self.places = Places(registry, holder)
        self._in_hand: set[asyncio.Task[None]] = set()

    async def attend(self, trigger_id: str) -> None:
        """One message of the queue, from lease to done. Never raises for what a job does; cancellation passes
        through.
        """
        task = asyncio.create_task(self._attend(trigger_id), name=f"job-{trigger_id}")
        self._in_hand.add(task)
        task.add_done_callback(self._in_hand.discard)
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def stop(self, within: float = STOP_WITHIN) -> None:
        """Cancel all work in hand and wait until it has given its leases back."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await end_tasks(*self._in_hand)
                await self.places.close()

    async def _attend(self, trigger_id: str) -> None:
        ttl = self.settings.jobs.lease_seconds
        try:
            trigger = await self.registry.get_trigger(trigger_id)
            if trigger is None:
                return
            one_of_a_kind = f"job:{trigger.job}:{trigger.domain}"
            await under_lease(
                self.registry, one_of_a_kind, self.holder, lambda held: self._open(trigger_id, held), ttl=ttl
            )
        except LeaseLost as error:
            self.metrics.lost_leases.inc()
            log.warning("%s", error)
        except RegistryUnavailable as error:
            log.warning("Trigger %s waits: %s", trigger_id, error)
        except RegistryError:
            log.exception("Trigger %s could not be handled.", trigger_id)

    async def _open(self, trigger_id: str, held: Held) -> None:
        trigger = await self.registry.get_trigger(trigger_id)
        if trigger is None:
            return
        attempt = await self._tried(trigger, 1)
        started = asyncio.get_running_loop().time()
        try:
            outcome = await self._do(trigger, held, attempt)
        except asyncio.CancelledError:
            with contextlib.suppress(RegistryUnavailable):
                await self._tried(trigger, -1)  # told to stop: that is no sign of a job that kills its workers
            raise
        await self._finish(trigger, outcome, asyncio.get_running_loop().time() - started)
        await self._tried(trigger, -attempt)

    async def _tried(self, trigger: Trigger, more: int) -> int:
        """Starts of this kind of job in this domain that came to no end, one after the other."""
        name = f"attempts-{trigger.job}-{trigger.domain}"
        totals = await self.registry.add_usage({name: {"starts": float(more)}}, "now", FORGET_ATTEMPTS)
        return int(totals[name]["starts"])

    async def _do(self, trigger: Trigger, held: Held, attempt: int) -> str:
        """The job, and how it ended. Raises RegistryUnavailable, LeaseLost: then it is taken up again."""
        try:
            work = Work(
                trigger, self.registry, self.settings, held, self.clock, self.ids, self.metrics, places=self.places
            )
            if attempt > MOST_ATTEMPTS:
                await give_up(work)
            said = await self.jobs(trigger.job)(work)
            log.info("%s of %s: %s", trigger.job, trigger.domain, said)
        except NoWork as reason:
            log.info("%s of %s not done: %s", trigger.job, trigger.domain, reason)
            return reason.cause
        except (RegistryUnavailable, LeaseLost):
            raise
        except (JobsError, RegistryError) as error:
            log.warning("%s of %s failed: %s", trigger.job, trigger.domain, error)
            return "failed"
        except Exception:
            log.exception("%s of %s failed.", trigger.job, trigger.domain)
            return "error"
        return "ok"

    async def _finish(self, trigger: Trigger, outcome: str, seconds: float) -> None:
        job = trigger.job if trigger.job in BY_NAME else "unknown"
        self.metrics.job_duration.labels(job, outcome).observe(seconds)
        if outcome == "ok":
            self.metrics.job_last_success.labels(job).set(self.clock())
        with contextlib.suppress(Conflict):
            await self.registry.done_trigger(trigger.id)


def slots(settings: Settings) -> dict[Lane, int]:
    """Places per lane in one worker: ``concurrency`` for searches, and room of their own for what must not wait for
    them.
    """
    n = settings.jobs.concurrency
    return dict(zip(LANES, (max(2, n), n, n), strict=True))


async def worker(settings: Settings, *, metrics: str | None = None) -> None:
    """Work until SIGTERM or SIGINT, then give back what is in hand and return. ``metrics``: HOST:PORT to serve them at.

    Raises JobsError, RegistryUnavailable when Redis stays away at the start.
    """
    meters = Metrics()
    address = metrics or settings.jobs.metrics
    close = start_server(meters, address) if address else None
    try:
        async with open_both(settings) as (registry, queue):
            log.info("Working.")
            hands = Worker(registry, settings, metrics=meters, holder=holder_name())
            showing = asyncio.create_task(scores.keep_fresh(registry, meters)) if address else None
            try:
                await until_told(lambda stop: serve(hands, queue, stop))
            finally:
                if showing is not None:
                    await end_tasks(showing)
    finally:
        if close:
            close()


async def serve(hands: Worker, queue: Queue, stop: asyncio.Event) -> None:
    """Work until ``stop`` is set; then stop what is in hand and return."""
    serving = asyncio.create_task(queue.serve(hands.attend, slots(hands.settings), stop))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.set()
        stopping.cancel()
        await hands.stop()
        await asyncio.gather(serving, stopping, return_exceptions=True)
