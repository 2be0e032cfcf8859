"""Leases: the right to do one thing for a while, with a fencing number that shuts out whoever held it before. Places:
the right to do a thing so many times at once, shared fairly by all who ask.
"""

from __future__ import annotations

import hashlib

from msgspec.structs import replace

from registry.errors import Conflict, Corrupt
from registry.records import Lease
from registry.store import DAY, Store, text_of

_FENCE_DAYS = 400


class LeaseStore(Store):
    """Gives, renews and takes back leases. Time passes on the server's clock, so holders' clocks may differ."""

    async def acquire(self, name: str, holder: str, ttl: float) -> Lease | None:
        """The lease for ``ttl`` seconds, or None while another holds it. A holder that asks again gets its own,
        renewed.
        """
        asked = self._clock()
        keys = (self._keys.lease(name), self._keys.lease_fence(name))
        fence = int(await self._redis.run("acquire", keys, (holder, int(ttl * 1000), int(_FENCE_DAYS * DAY))))
        return Lease(name=name, holder=holder, fence=fence, until=asked + ttl) if fence else None

    async def renew(self, lease: Lease, ttl: float | None = None) -> Lease:
        """Another ``ttl`` seconds (as many as before when absent). Raises Conflict when it has gone to another."""
        asked = self._clock()
        seconds = ttl if ttl is not None else 30.0
        args = (f"{lease.fence} {lease.holder}", max(1, int(seconds * 1000)))
        if not await self._redis.run("renew", (self._keys.lease(lease.name),), args):
            raise Conflict(f"The lease {lease.name} has lapsed: another may hold it now.")
        return replace(lease, until=asked + seconds)

    async def release(self, lease: Lease) -> None:
        """Give it back; nothing happens when it has gone to another."""
        await self._redis.run("renew", (self._keys.lease(lease.name),), (f"{lease.fence} {lease.holder}", 0))

    async def share_places(
        self, name: str, holder: str, *, wanted: int, used: int, limit: int, ttl: float
    ) -> tuple[int, int]:
        """This holder's share of ``limit`` places for ``ttl`` seconds, on the server's clock: ``(granted, fair)``.

        ``wanted``: how many it could use now, 0 gives all back. ``used``: how many it may be using at this moment; they
        are never taken away. Grants of all holders sum to at most ``limit``; where ``fair`` is less than ``granted``,
        others wait for the difference: the holder goes down to it and asks again. ``name`` may be any text.
        """
        tag = hashlib.sha256(name.encode()).hexdigest()[:16]
        args = (holder, wanted, used, limit, max(1, int(ttl * 1000)))
        granted, fair = await self._redis.run("share_places", (self._keys.places(tag),), args)
        return int(granted), int(fair)

    async def lease_holder(self, name: str) -> tuple[str, int] | None:
        """``(holder, fence)`` of a lease that is held. Raises Corrupt."""
        raw = await self._redis.command("GET", self._keys.lease(name))
        if raw is None:
            return None
        fence, _, holder = text_of(raw).partition(" ")
        if not fence.isdigit():
            raise Corrupt(f"The lease {name} is not what was written: something else wrote it.")
        return holder, int(fence)
