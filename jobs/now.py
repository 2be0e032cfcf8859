"""Asking for a job by hand: write the trigger, or do the job here and now."""

from __future__ import annotations

import difflib
import time
import uuid
from collections.abc import Callable
from typing import Any

from jobs.errors import JobsError, UnknownJob
from jobs.lease import Held, under_lease
from jobs.metrics import Metrics
from jobs.places import Places
from jobs.process import holder_name
from jobs.schedule import BY_NAME, FLEET
from jobs.work import Work
from jobs.worker import find
from registry import Registry, Settings, Trigger


def known_job(name: str) -> str:
    """The name, when there is such a job. Raises UnknownJob, which names the nearest one."""
    if name in BY_NAME:
        return name
    near = difflib.get_close_matches(name, BY_NAME, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"jobs: {', '.join(sorted(BY_NAME))}."
    raise UnknownJob(f"No job is called {name!r}; {hint}")


async def run_job(
    registry: Registry,
    name: str,
    domain: str | None = None,
    *,
    by: str,
    why: str = "asked for",
    args: dict[str, Any] | None = None,
    clock: Callable[[], float] = time.time,
) -> Trigger:
    """Ask for one run of a job now. Raises UnknownJob, JobsError (a domain is needed), NotFound (no such domain)."""
    trigger = await wish(registry, name, domain, by=by, why=why, args=args, clock=clock)
    await registry.put_trigger(trigger)
    return trigger


async def wish(
    registry: Registry,
    name: str,
    domain: str | None,
    *,
    by: str,
    why: str,
    args: dict[str, Any] | None = None,
    clock: Callable[[], float] = time.time,
) -> Trigger:
    """A trigger with an id of its own, not written yet."""
    job = BY_NAME[known_job(name)]
    if job.scope == "domain":
        if not domain:
            raise JobsError(f"The job {name!r} works on one domain: add --domain.")
        await registry.get_domain(domain)
    where = domain or FLEET
    token = uuid.uuid4().hex[:12]
    return Trigger(id=f"{name}:{where}:{token}", job=name, domain=where, at=clock(), by=by, why=why, args=args or {})


async def do_here(
    registry: Registry, settings: Settings, trigger: Trigger, *, clock: Callable[[], float] = time.time
) -> str:
    """Do a job in this process, under the same lease as a worker would. Returns what it said.

    Raises JobsError (another worker is at it), NoWork and whatever the job raises.
    """

    async def work(held: Held) -> str:
        handed = Work(trigger, registry, settings, held, clock, lambda: uuid.uuid4().hex, Metrics(), places=places)
        try:
            return await find(trigger.job)(handed)
        finally:
            await places.close()

    holder = holder_name()
    places = Places(registry, holder)
    said = await under_lease(
        registry, f"job:{trigger.job}:{trigger.domain}", holder, work, ttl=settings.jobs.lease_seconds
    )
    if said is None:
        raise JobsError(f"A worker is doing {trigger.job!r} for {trigger.domain!r} just now; try again in a moment.")
    return said
