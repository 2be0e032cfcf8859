"""The right to do one thing, held for as long as it takes and not a moment longer.

A lease lives 30 seconds in the registry and is renewed every ten. Who dies stops renewing, and another worker takes
over when it lapses: that, and not the queue's idle time-out, is how a killed worker's job moves on, so a search may
take hours. Each holder gets a larger fence; writes that carry an old fence are refused by the registry, so a holder
that merely slept cannot spoil its successor's work.

Time here is the event loop's monotonic time: a wall clock that jumps neither ends nor prolongs a lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from typing import TypeVar

from jobs.errors import LeaseLost
from jobs.process import end_tasks
from registry import Conflict, Lease, Registry, RegistryUnavailable

TTL = 30.0
T = TypeVar("T")
_tries = itertools.count()
"""Makes each attempt a holder of its own: the registry gives a lease again to a holder that has it."""


class Held:
    """A lease in hand. ``fence`` goes with every guarded write; ``check()`` raises ``LeaseLost`` once it is gone."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.lost = False

    @property
    def fence(self) -> int:
        return self.lease.fence

    def check(self) -> None:
        if self.lost:
            raise LeaseLost(f"The lease {self.lease.name!r} has passed to another holder.")


async def under_lease(
    registry: Registry, name: str, holder: str, work: Callable[[Held], Awaitable[T]], *, ttl: float = TTL
) -> T | None:
    """Run ``work`` while holding the lease ``name``; None, and nothing run, when somebody else holds it.

    Raises ``LeaseLost`` after cancelling ``work`` when the lease could not be renewed within ``ttl`` seconds or
    passed to somebody else. The lease is released at the end, also when ``work`` raises or is cancelled.
    """
    lease = await registry.acquire(name, f"{holder}/{next(_tries)}", ttl)
    if lease is None:
        return None
    held = Held(lease)
    doing = asyncio.ensure_future(work(held))
    keeping = asyncio.create_task(_keep(registry, held, ttl))
    try:
        await asyncio.wait({doing, keeping}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        held.lost = True
        raise LeaseLost(f"The lease {name!r} was lost; another worker may hold it now.")
    finally:
        await end_tasks(doing, keeping)
        if not held.lost:
            with contextlib.suppress(RegistryUnavailable):
                await registry.release(held.lease)


async def _keep(registry: Registry, held: Held, ttl: float) -> None:
    """Renew three times per lifetime; return when the lease is lost. A registry that is down is asked until time is
    up.
    """
    loop = asyncio.get_running_loop()
    renewed = loop.time()
    while loop.time() - renewed < ttl:
        await asyncio.sleep(ttl / 3 if loop.time() - renewed < ttl / 3 else ttl / 15)
        try:
            held.lease = await registry.renew(held.lease, ttl)
            renewed = loop.time()
        except RegistryUnavailable:
            continue
        except Conflict:
            break
    held.lost = True
