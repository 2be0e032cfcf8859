"""Keeps a process's copy of the snapshot fresh: push, and an epoch check four times a second for what a push may miss.

``start`` loads the file first (so a gateway can serve without Redis), then follows Redis in background tasks for ever:
reconnecting with back-off and jitter, never raising into the caller. A value that cannot be read or verified is refused
and counted; its domain keeps what it served before.

How late a move can be seen, when processes get CPU: by push, one round trip after it is made. With the push lost,
``CHECK_EVERY`` until the next check begins, and where that check's own connection is dead as well, ``CHECK_WITHIN``
until it is given up and ``FIRST_RETRY`` until it is asked again: together below a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Final

import redis.exceptions as foreign
from msgspec.structs import replace

from registry.connection import Connection
from registry.errors import Corrupt, RegistryError
from registry.records import DomainView, KeyRecord, Snapshot
from registry.redis_keys import FLEET
from registry.signing import Verifier
from registry.snapshot import FOREIGN, Changes, fetch_all, fetch_changes, read_keys, read_view
from registry.snapshot_file import SnapshotFile
from registry.store import text_of

CHECK_EVERY: Final = 0.25
CHECK_WITHIN: Final = 0.5
"""Seconds a watcher's connection waits for an answer, but for reading everything."""
FIRST_RETRY: Final = 0.03
ROUND_EVERY: Final = 300.0
"""Seconds in which every domain is read anew, a few with each check, whatever the epochs say."""
_READ_ALL_WITHIN: Final = 15.0
_RETRY_AT_LEAST_EVERY: Final = 5.0
_MOST: Final = 250
"""Changes at one time beyond which everything is read."""
_CHUNK: Final = 250
_LISTEN: Final = 1.0
"""Seconds without a push after which is asked whether one was missed."""


class SnapshotWatcher:
    """Follows the registry. ``current`` is the last known good snapshot; ``on_snapshot`` is called with each new one.

    A new snapshot shares with the one before what did not change: the same objects, so that who compiles them can tell.
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
        round_every: float = ROUND_EVERY,
    ) -> None:
        self.current: Snapshot | None = None
        self.up = False
        self.refused: dict[str, int] = {}
        self.refusals: dict[str, str] = {}
        self._connect = connect
        self._verifier = Verifier(verify_key) if verify_key else None
        self._on_snapshot = on_snapshot
        self._clock = clock
        self._jitter = jitter
        self._check_every = check_every
        self._round_every = round_every
        self._redis: Connection | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._checked_at: float | None = None
        self._fresh = asyncio.Event()
        self._turn = asyncio.Lock()
        self._connecting = asyncio.Lock()
        self._stopping = False
        self._bad: set[str] = set()
        self._round: Iterator[str] = iter(())
        self._due = 0.0
        self._file = SnapshotFile(cache_file, self._refuse) if cache_file is not None else None

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self, wait: float = 1.0) -> None:
        """Load the file, begin to follow, and wait up to ``wait`` seconds for a first word from Redis."""
        if self._file is not None:
            found = await asyncio.to_thread(self._file.read, self._verifier)
            if found is not None:
                self._checked_at = found.taken_at
                self.current = found
                self._on_snapshot(found)
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._listen())]
        if self._file is not None:
            self._tasks.append(asyncio.create_task(self._file.keep()))
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
        if self._file is not None:
            await self._file.close()
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
                await self._translated(self._check(in_round=True))
                failures = 0
                pause = self._check_every
            except RegistryError as error:
                self.up = False
                self.refusals["redis"] = str(error)
                pause = FIRST_RETRY
                if failures:
                    longer = self._check_every * 2 ** min(failures, 5)
                    pause = min(longer, _RETRY_AT_LEAST_EVERY) * (0.5 + self._jitter() / 2)
                failures += 1
            await asyncio.sleep(pause)

    async def _listen(self) -> None:
        """The push, for ever. A message is only a hint to check now."""
        while not self._stopping:
            try:
                redis = await self._connection()
                async with redis.subscription(redis.keys.moved) as pubsub:
                    await self.check()  # what was told before the subscription stood
                    await self._hear(pubsub)
            except (RegistryError, foreign.RedisError, OSError, TimeoutError):
                await asyncio.sleep(0.2 + self._jitter() * 0.5)

    async def _hear(self, pubsub: Any) -> None:
        """Messages, until a change was found that none of them told: such a subscription is dead, whatever it looks
        like.
        """
        heard = found = self._epoch
        while not self._stopping:
            message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=_LISTEN)
            if message is not None:
                told = _told(message)
                heard = max(heard, told)
                if told == 0 or told > self._epoch:  # of several moves at once, the first check brings all
                    await self.check()
            elif heard < found:
                return
            else:
                found = self._epoch

    @property
    def _epoch(self) -> int:
        return self.current.epoch if self.current is not None and self._fresh.is_set() else -1

    async def _connection(self) -> Connection:
        async with self._connecting:
            if self._redis is None:
                self._redis = await self._connect()
            return self._redis

    async def check(self) -> None:
        """Compare epochs; read what changed. Raises RegistryError when Redis does not answer, or not as we wrote."""
        await self._translated(self._check(in_round=False))

    async def _translated(self, step: Awaitable[None]) -> None:
        try:
            await step
        except ValueError as error:
            raise Corrupt(f"The fleet's epoch or its changes are not what was written: {error}.") from error

    async def _check(self, *, in_round: bool) -> None:
        async with self._turn:
            redis = await self._connection()
            mine = self._epoch
            if mine < 0:
                await self._reload(redis)
            else:
                also = await self._next_few(redis) if in_round else ()
                found = await fetch_changes(redis, mine, also, most=_MOST, now=self._clock())
                if isinstance(found, Changes):
                    self._take(found)
                else:
                    await self._reload(redis)
            self.up = True
            self.refusals.pop("redis", None)
            self._checked_at = self._clock()
            self._fresh.set()

    async def _next_few(self, redis: Connection) -> Collection[str]:
        """Names whose turn it is to be read anew: a share with each check, so that never all are read at once."""
        assert self.current is not None
        self._due += (len(self.current.domains) + 1) * self._check_every / self._round_every
        count = int(self._due)
        if not count:
            return ()
        self._due -= count
        few = list(itertools.islice(self._round, count))
        if len(few) < count:
            listed = {text_of(raw) for raw in await redis.command("SMEMBERS", redis.keys.domains)}
            self._round = iter([FLEET, *sorted(listed | self.current.domains.keys())])
        return few

    async def _reload(self, redis: Connection) -> None:
        async with redis.patient(_READ_ALL_WITHIN) as patient:
            raw = await fetch_all(patient)
        old = self.current.domains if self.current is not None else {}
        if old and not raw.domains and self.current is not None and raw.epoch < self.current.epoch:
            # A new or flushed server is not an order to stop serving.
            self._refuse(
                "registry", f"Redis is empty, but {len(old)} domains were served: keeping the last known good."
            )
            return
        self._bad.discard(FLEET)
        domains: dict[str, DomainView] = {}
        names = list(raw.domains)
        for start in range(0, len(names), _CHUNK):
            # Off the loop and in small parts, so that requests go on while a large fleet loads. More threads would not
            # help: the interpreter is held while a signature is checked.
            part = {name: raw.domains.pop(name) for name in names[start : start + _CHUNK]}
            domains.update(await asyncio.to_thread(self._read_some, part, old))
        keys = self._read_keys(raw.keys)
        self._deliver(Snapshot(epoch=raw.epoch, taken_at=self._clock(), domains=domains, keys=keys))

    def _read_some(self, lives: dict[str, dict[bytes, bytes]], old: dict[str, DomainView]) -> dict[str, DomainView]:
        """The good ones among ``lives``; a refused one keeps its last known good view, an unchanged one its object."""
        views = {}
        for name, live in lives.items():
            known = old.get(name)
            try:
                view = read_view(name, live, self._verifier)
            except Corrupt as error:
                if name not in self._bad:
                    self._refuse("domain", str(error))
                    self._bad.add(name)
                view = known
            else:
                self._bad.discard(name)
            if view is not None:
                views[name] = known if known is not None and view == known else view
        return views

    def _read_keys(self, raw: dict[bytes, bytes]) -> dict[str, KeyRecord]:
        """The usable keys; those that were known where the whole place of the keys is unusable."""
        keys = read_keys(raw, self._refuse)
        return self.current.keys if raw == FOREIGN and self.current is not None else keys

    def _take(self, found: Changes) -> None:
        """Put what changed into a copy of the current snapshot."""
        now = self.current
        assert now is not None
        views = self._read_some(found.domains, now.domains)
        moved = [name for name in found.domains if views.get(name) is not now.domains.get(name)]
        keys = now.keys if found.keys is None else self._read_keys(found.keys)
        if found.epoch == now.epoch and not moved and keys == now.keys:
            return
        domains = now.domains
        if moved:
            domains = dict(domains)
            for name in moved:
                if name in views:
                    domains[name] = views[name]
                else:
                    del domains[name]
        self._deliver(replace(now, epoch=found.epoch, taken_at=self._clock(), domains=domains, keys=keys))

    # --- handing on -----------------------------------------------------------------------------------------------

    def _deliver(self, snapshot: Snapshot) -> None:
        self.current = snapshot
        self._on_snapshot(snapshot)
        if self._file is not None:
            self._file.put(snapshot)

    def _refuse(self, what: str, why: str) -> None:
        self.refused[what] = self.refused.get(what, 0) + 1
        self.refusals[what] = why


def _told(message: dict[str, Any]) -> int:
    """The epoch that a message tells; 0 when it tells none."""
    try:
        return int(bytes(message["data"]).partition(b" ")[0])
    except (TypeError, ValueError):
        return 0
