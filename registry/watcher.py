"""Keeps a process's copy of the snapshot fresh: push, and an epoch check four times a second for what a push may miss.

``start`` loads the file first (so a gateway can serve without Redis), then follows Redis in background tasks for ever:
reconnecting with back-off and jitter, never raising into the caller. A value that cannot be read or verified is refused
and counted; its domain keeps what it served before.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import redis.exceptions as foreign
from msgspec.structs import replace

from registry import snapshot as snapshots
from registry.connection import Connection
from registry.errors import Corrupt, RegistryError
from registry.records import DomainView, KeyRecord, Snapshot
from registry.signing import Verifier
from registry.store import MARKS_LIVE

CHECK_EVERY = 0.25
"""A lost push costs this and the time of a check: well under a second also on a busy machine."""
RELOAD_EVERY = 300.0
"""Seconds after which everything is read anew, whatever the epochs say."""
_CHUNK = 250
_THREADS = min(4, os.cpu_count() or 1)
_WRITE_PAUSE = 2.0


class SnapshotWatcher:
    """Follows the registry. ``current`` is the last known good snapshot; ``on_snapshot`` is called with each new one.

    ``connect`` makes the connection (again), so a watcher can start while Redis is down. ``refused`` counts bad values
    by kind, ``refusals`` keeps the last sentence for each kind. ``up``: the last check was answered. ``age()``: seconds
    since.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        cache_file: Path | None,
        verify_key: bytes | None,
        on_snapshot: Callable[[Snapshot], None],
        *,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
        check_every: float = CHECK_EVERY,
    ) -> None:
        self.current: Snapshot | None = None
        self.up = False
        self.refused: dict[str, int] = {}
        self.refusals: dict[str, str] = {}
        self._connect = connect
        self._cache_file = cache_file
        self._verifier = Verifier(verify_key) if verify_key else None
        self._on_snapshot = on_snapshot
        self._clock = clock
        self._jitter = jitter
        self._check_every = check_every
        self._redis: Connection | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._checked_at: float | None = None
        self._full_at = 0.0
        self._written = 0.0
        self._fresh = asyncio.Event()
        self._unsaved = asyncio.Event()
        self._turn = asyncio.Lock()
        self._connecting = asyncio.Lock()
        self._stopping = False
        self._bad: set[str] = set()

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self, wait: float = 1.0) -> None:
        """Load the file, begin to follow, and wait up to ``wait`` seconds for a first word from Redis."""
        if self._cache_file is not None:
            found = await asyncio.to_thread(snapshots.read_snapshot, self._cache_file, self._verifier, self._refuse)
            if found is not None:
                self._checked_at = found.taken_at
                self._deliver(found)
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._listen())]
        if self._cache_file is not None:
            self._tasks.append(asyncio.create_task(self._save()))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._fresh.wait(), wait)

    async def stop(self) -> None:
        """Stop following and write the file a last time."""
        self._stopping = True
        pending = set(self._tasks)
        while pending:
            # A cancellation that meets a time-out inside the Redis client can be lost: ask again.
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=1.0)
        self._tasks = []
        if self._unsaved.is_set() and self._cache_file is not None and self.current is not None:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(snapshots.write_snapshot, self._cache_file, self.current)
            self._unsaved.clear()
        if self._redis is not None:
            await self._redis.close()
            self._redis = None

    def age(self) -> float:
        """Seconds since Redis last confirmed what we serve; infinite when it never did."""
        return float("inf") if self._checked_at is None else max(0.0, self._clock() - self._checked_at)

    # --- following ------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """The epoch check, for ever."""
        failures = 0
        while not self._stopping:
            try:
                await self.check()
                failures = 0
                pause = self._check_every
            except RegistryError as error:
                self.up = False
                self.refusals["redis"] = str(error)
                failures += 1
                pause = min(self._check_every * 2 ** min(failures, 4), 5.0) * (0.5 + self._jitter() / 2)
            await asyncio.sleep(pause)

    async def _listen(self) -> None:
        """The push, for ever. A message is only a hint to check now."""
        while not self._stopping:
            try:
                redis = await self._connection()
                async with redis.subscription(redis.keys.moved) as pubsub:
                    await self.check()  # what was told before the subscription stood
                    while not self._stopping:
                        message = await pubsub.get_message(timeout=10.0)
                        if message is not None:
                            await self.check()
            except (RegistryError, foreign.RedisError, OSError, TimeoutError):
                await asyncio.sleep(0.2 + self._jitter() * 0.5)

    async def _connection(self) -> Connection:
        async with self._connecting:
            if self._redis is None:
                self._redis = await self._connect()
            return self._redis

    async def check(self) -> None:
        """Compare epochs; read what changed. Raises RegistryError when Redis does not answer, or not as we wrote."""
        try:
            await self._check()
        except ValueError as error:
            raise Corrupt(f"The fleet's epoch or its changes are not what was written: {error}.") from error

    async def _check(self) -> None:
        async with self._turn:
            redis = await self._connection()
            keys = redis.keys
            epoch_text, dirty = await redis.many([("GET", keys.epoch), ("HGETALL", keys.dirty)])
            epoch = int(epoch_text or 0)
            now = self._clock()
            mine = self.current.epoch if self.current is not None and self._fresh.is_set() else -1
            if mine < 0 or epoch < mine or now - self._full_at > RELOAD_EVERY:
                await self._reload(redis)
            else:
                names = {
                    mark.decode().partition(":")[0]
                    for mark, since in dirty.items()
                    if now - _number(since) < MARKS_LIVE
                }
                if epoch > mine:
                    changed = await redis.command("ZRANGEBYSCORE", keys.changes, f"({mine}", "+inf")
                    names |= {name.decode() for name in changed}
                if len(names) > _CHUNK:
                    await self._reload(redis)
                elif names or epoch > mine:
                    await self._refresh(redis, names, epoch)
            self.up = True
            self.refusals.pop("redis", None)
            self._checked_at = self._clock()
            self._fresh.set()

    async def _reload(self, redis: Connection) -> None:
        raw = await snapshots.fetch_all(redis)
        old = self.current.domains if self.current is not None else {}
        if old and not raw.domains and self.current is not None and raw.epoch < self.current.epoch:
            # A new or flushed server is not an order to stop serving.
            self._refuse(
                "registry", f"Redis is empty, but {len(old)} domains were served: keeping the last known good."
            )
            self._full_at = self._clock()
            return
        self._bad.discard("*")
        domains: dict[str, DomainView] = {}
        names = list(raw.domains)
        parts = [names[start : start + _CHUNK] for start in range(0, len(names), _CHUNK)]
        for start in range(0, len(parts), _THREADS):
            # Signatures are checked off the loop and on every core, so that requests go on while a large fleet loads.
            found = await asyncio.gather(
                *(
                    asyncio.to_thread(self._read_some, {name: raw.domains.pop(name) for name in part}, old)
                    for part in parts[start : start + _THREADS]
                )
            )
            for views in found:
                domains.update(views)
        keys = self._read_keys(raw.keys)
        self._full_at = self._clock()
        self._deliver(Snapshot(epoch=raw.epoch, taken_at=self._clock(), domains=domains, keys=keys))

    def _read_some(self, lives: dict[str, dict[bytes, bytes]], old: dict[str, DomainView]) -> dict[str, DomainView]:
        """The good ones among ``lives``; a refused one keeps its last known good view."""
        views = {}
        for name, live in lives.items():
            try:
                view = snapshots.read_view(name, live, self._verifier)
            except Corrupt as error:
                if name not in self._bad:
                    self._refuse("domain", str(error))
                    self._bad.add(name)
                view = old.get(name)
            else:
                self._bad.discard(name)
            if view is not None:
                views[name] = view
        return views

    def _read_keys(self, raw: dict[bytes, bytes]) -> dict[str, KeyRecord]:
        """The usable keys; those that were known where the whole place of the keys is unusable."""
        keys = snapshots.read_keys(raw, self._refuse)
        return self.current.keys if raw == snapshots.FOREIGN and self.current is not None else keys

    async def _refresh(self, redis: Connection, names: set[str], epoch: int) -> None:
        assert self.current is not None
        keys: dict[str, KeyRecord] = self.current.keys
        if "*" in names:
            names = names - {"*"}
            [raw_keys] = await redis.many([("HGETALL", redis.keys.keyring)], wrong_type=snapshots.FOREIGN)
            keys = self._read_keys(raw_keys)
        lives = await snapshots.fetch_domains(redis, sorted(names))
        views = self._read_some(lives, self.current.domains)
        domains = dict(self.current.domains)
        for name in names:
            if name in views:
                domains[name] = views[name]
            else:
                domains.pop(name, None)
        if epoch == self.current.epoch and domains == self.current.domains and keys == self.current.keys:
            return
        self._deliver(replace(self.current, epoch=epoch, taken_at=self._clock(), domains=domains, keys=keys))

    # --- handing on -----------------------------------------------------------------------------------------------

    def _deliver(self, snapshot: Snapshot) -> None:
        self.current = snapshot
        self._on_snapshot(snapshot)
        if self._fresh.is_set() or self._tasks:
            self._unsaved.set()

    async def _save(self) -> None:
        """Write the file after changes, at most every two seconds: a burst of moves costs one write."""
        assert self._cache_file is not None
        while not self._stopping:
            await self._unsaved.wait()
            self._unsaved.clear()
            if self.current is not None:
                try:
                    await asyncio.to_thread(snapshots.write_snapshot, self._cache_file, self.current)
                except OSError as error:
                    self._refuse("file", f"The snapshot file cannot be written: {error}")
            await asyncio.sleep(_WRITE_PAUSE)

    def _refuse(self, what: str, why: str) -> None:
        self.refused[what] = self.refused.get(what, 0) + 1
        self.refusals[what] = why


def _number(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
