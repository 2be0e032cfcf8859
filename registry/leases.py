"""Leases: the right to do one thing for a while, with a fencing number that shuts out whoever held it before."""

from __future__ import annotations

from msgspec.structs import replace

from registry.errors import Conflict
from registry.records import Lease
from registry.store import DAY, Store

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

    async def lease_holder(self, name: str) -> tuple[str, int] | None:
        """``(holder, fence)`` of a lease that is held."""
        raw = await self._redis.command("GET", self._keys.lease(name))
        if raw is None:
            return None
        fence, _, holder = raw.decode().partition(" ")
        return holder, int(fence)
