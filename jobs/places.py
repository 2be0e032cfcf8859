"""So many model calls at one time per provider, of all workers together.

A provider's limit is the fleet's. Each worker holds a share of it in the registry, asks for it again while it has work
there and gives it back when it has none; grants of all workers never sum to more than the limit (``share_places`` in
the registry). So a single busy worker may use all of it, two busy ones half of it each, and what a killed worker held
is free when its grant lapses.

The share costs one small command a second, not one per call. While the registry cannot be reached a worker goes on
with its share until that lapses, and then lets its calls wait: nothing is served here, so waiting is the safe side.
Calls that are in the air at that moment are not taken back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from jobs.process import end_tasks
from registry import Registry, RegistryError

log = logging.getLogger("metaspo.jobs.places")

TTL = 10.0
"""Seconds for which a grant is valid."""
EVERY = 0.5
"""Seconds between two questions while there is work: how soon a worker gives way to another."""
SOONER = 0.05
"""Seconds before the next question where all that was asked for was granted, and more is wanted by now."""


class Places:
    """One worker's places at all providers. ``holder`` names the worker."""

    def __init__(self, registry: Registry, holder: str, *, ttl: float = TTL, every: float = EVERY) -> None:
        self._registry = registry
        self._holder = holder
        self._ttl = ttl
        self._every = every
        self._shares: dict[str, _Share] = {}

    @asynccontextmanager
    async def at(self, provider: str, limit: int) -> AsyncIterator[None]:
        """A place for one call; waits until the fleet's ``limit`` leaves one for this worker."""
        share = self._shares.get(provider)
        if share is None:
            share = self._shares[provider] = _Share(provider)
        share.limit = limit
        if share.keeper is None or share.keeper.done():
            share.keeper = asyncio.create_task(self._keep(share), name=f"places-{provider}")
        await share.take()
        try:
            yield
        finally:
            share.give()

    async def close(self) -> None:
        """Give all shares back: at the end of a worker, when nothing of it calls a model any more."""
        await end_tasks(*(share.keeper for share in self._shares.values()))
        for share in self._shares.values():
            with contextlib.suppress(RegistryError):
                await self._ask(share, 0)
        self._shares.clear()

    async def _ask(self, share: _Share, wanted: int) -> None:
        """Ask for ``wanted`` places. Raises RegistryUnavailable."""
        at = asyncio.get_running_loop().time()
        if not wanted:
            share.allow(0, 0, at)  # first, so that nobody takes a place while the others are told
        granted, fair = await self._registry.share_places(
            share.provider, self._holder, wanted=wanted, used=share.held(), limit=share.limit, ttl=self._ttl
        )
        share.allow(min(granted, fair), wanted, at + self._ttl)

    async def _keep(self, share: _Share) -> None:
        """Ask again and again while there is work; give the share back after a pause without any."""
        idle = 0
        while idle < 2:
            idle = 0 if share.wanted() else idle + 1
            try:
                await self._ask(share, 0 if idle == 2 else max(1, share.wanted()))
            except RegistryError as error:
                log.warning("The share of places at %s could not be renewed: %s", share.provider, error)
            if idle < 2:
                await share.changed(self._every, at_least=SOONER)
        if share.wanted():  # somebody came while the share was given back
            share.keeper = asyncio.create_task(self._keep(share), name=f"places-{share.provider}")


class _Share:
    """Places at one provider: granted to this worker, in use, and waited for, first come, first served."""

    def __init__(self, provider: str) -> None:
        self.provider = provider
        self.limit = 1
        self.keeper: asyncio.Task[None] | None = None
        self._allowed = self._asked = 0
        self._until = float("-inf")
        self._in_use = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._came = asyncio.Event()

    def wanted(self) -> int:
        return self._in_use + len(self._waiting)

    def held(self) -> int:
        """Places that may be in use when the registry's answer comes."""
        return max(self._in_use, self._allowed if self._valid() else 0)

    def allow(self, places: int, asked: int, until: float) -> None:
        """``places`` of the ``asked`` may be used until then, on the event loop's clock."""
        self._allowed, self._asked, self._until = places, asked, until
        self._hand_out()

    async def take(self) -> None:
        if not self._waiting and self._free():
            self._in_use += 1
            return
        mine = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        if self._allowed >= self._asked:
            self._came.set()
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self.give()
            elif mine in self._waiting:
                self._waiting.remove(mine)
            raise

    def give(self) -> None:
        self._in_use -= 1
        self._hand_out()

    async def changed(self, seconds: float, *, at_least: float) -> None:
        """``seconds``, or less where somebody waits for a place that might be had for the asking."""
        self._came.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._came.wait()
                await asyncio.sleep(at_least)

    def _hand_out(self) -> None:
        while self._waiting and self._free():
            mine = self._waiting.popleft()
            if not mine.done():
                self._in_use += 1
                mine.set_result(None)

    def _free(self) -> bool:
        return self._in_use < self._allowed and self._valid()

    def _valid(self) -> bool:
        return asyncio.get_running_loop().time() < self._until
