"""Which exchanges are kept for learning, and how they get from the request path into the registry.

`Sampler.offer` is all that the request path sees: a few comparisons, an append to a bounded queue, nothing awaited.
A full queue drops and counts. A background task takes batches, has them read and scrubbed in a thread, and writes
them to the registry; a batch that the registry does not take is tried again while the queue fills and drops.

Every exchange with a served version becomes an `Outcome` (numbers only, at most `OUTCOMES_PER_SECOND` per worker
and arm); a share of them, capped per hour (`quotas.py`), becomes a `Sample` as well. Whether an id is kept is a
function of the id, so that an SDK's retry is decided like its first try.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from math import ceil
from typing import Protocol

import msgspec

from gateway.exchange import Exchange
from gateway.feedback import record_id
from gateway.limits import Ledger, exchange_cost
from gateway.prices import Prices
from gateway.quotas import HourlyRoom, PerSecond, drawn
from gateway.retries import MAX_REQUEST, Retries
from gateway.samples import bad_format, make_outcome, make_sample, read_exchange
from gateway.scrub import DETECTORS, Detector
from gateway.transcript import READABLE, Unreadable
from registry import (
    GLOBAL,
    Outcome,
    RegistryError,
    RegistryUnavailable,
    Sample,
    SamplePolicy,
    Snapshot,
    Task,
)

log = logging.getLogger(__name__)

HOUR = 3600.0
FLUSH_EVERY = 0.25
"""Seconds between two batches while little happens."""
SHARE_EVERY = 1.0
"""Seconds between two comparisons of the hourly caps with the fleet."""
SWITCH_INTERVAL = 0.0005
"""Seconds for which the scrubbing thread may hold up the requests' thread (Python's default: 0.005)."""
BATCH = 500
BATCH_READ = 50
"""Exchanges of a batch that are read and scrubbed: a fraction of a second's work."""
MAX_QUEUED_BYTES = 8 << 20
OUTCOMES_PER_SECOND = 200
READS_PER_SECOND = 50
"""Replies a second that are read only to see refusals and broken formats on the arms that are compared."""
COMPARED_ARMS = frozenset({"canary", "control", "holdback"})

Write = Callable[[Sequence[Sample], Sequence[Outcome]], Awaitable[None]]


class Counts(Protocol):
    """What the sampler tells the metrics."""

    def sample(self, domain: str, *, kept: bool) -> None:
        """One exchange that could have been kept."""

    def dropped(self, reason: str) -> None:
        """One exchange that should have been kept and was not."""


class _Queued(msgspec.Struct):
    """One exchange on its way: its numbers, and its bytes where they are to be read."""

    outcome: Outcome | None
    exchange: Exchange | None
    domain: str
    task: str | None
    """The task under which it is kept; None when only its numbers are."""
    share: float
    size: int = 0


class Sampler:
    """Keeps exchanges for learning. Implements `gateway.exchange.Recorder`.

    ``write`` is ``Registry.record``, ``ledger`` is ``Registry.add_usage``: with it a domain's hourly cap holds for
    the fleet within about a second. ``fleet`` is the number of workers of this process family, who share the cap
    from the start.
    """

    def __init__(
        self,
        write: Write,
        counts: Counts,
        prices: Prices,
        *,
        clock: Callable[[], float],
        queue: int = 10_000,
        per_unit: int = 20,
        key_share: float = 0.5,
        fleet: int = 1,
        ledger: Ledger | None = None,
        detectors: Sequence[Detector] = DETECTORS,
    ) -> None:
        self._write = write
        self._counts = counts
        self._prices = prices
        self._clock = clock
        self._limit = queue
        self._per_unit = per_unit
        self._key_share = key_share
        self._fleet = fleet
        self._ledger = ledger
        self._shared_at = 0.0
        self._detectors = detectors
        self._queue: deque[_Queued] = deque()
        self._queued_bytes = 0
        self._rooms: dict[str, HourlyRoom] = {}
        self._retries = Retries()
        self._outcome_rates: dict[str, PerSecond] = {}
        self._reads = PerSecond(READS_PER_SECOND)
        self._policies: dict[str, SamplePolicy] = {}
        self._tasks: dict[str, dict[str, Task]] = {}
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def load(self, snapshot: Snapshot) -> None:
        """Take the sampling policies of a new snapshot."""
        self._policies = {name: view.domain.sample for name, view in snapshot.domains.items()}
        self._tasks = {name: view.domain.tasks for name, view in snapshot.domains.items()}

    # --- the request path ---------------------------------------------------------------------------------------------

    def offer(self, exchange: Exchange) -> None:
        """Keep this exchange or not. Never waits, never raises."""
        if exchange.dialect not in READABLE or exchange.answered_by != "upstream" or exchange.ending == "caller_gone":
            return
        domain = exchange.domain or GLOBAL
        policy = self._policies.get(domain)
        if policy is None:
            return
        ok = 200 <= exchange.status < 300 and not exchange.ending  # as `Exchange.ok`
        identity = exchange.id
        chosen = repeated = False
        if exchange.retry or exchange.idempotency_key:
            identity = record_id(exchange)
            repeated = ok
        if ok and not exchange.sample_off and drawn(identity, policy.share):
            chosen = repeated = True
        if repeated and self._retries.repeats(exchange, identity, chosen=chosen):
            return
        clock = self._clock
        now = clock()
        outcome = self._outcome(exchange, identity, now)
        task = self._has_room(exchange, domain, policy, now) if chosen else None
        if outcome is None and task is None:
            return
        read = task is not None or (ok and exchange.arm in COMPARED_ARMS and self._reads.take(now))
        size = len(exchange.request) + exchange.reply_size if read else 0
        if len(self._queue) >= self._limit:
            self._counts.dropped("queue_full")
            return
        if size and self._queued_bytes + size > MAX_QUEUED_BYTES:
            self._counts.dropped("queue_bytes")
            if outcome is None:
                return
            read, task = False, None
            size = 0
        self._queue.append(_Queued(outcome, exchange if read else None, domain, task, policy.share, size))
        self._queued_bytes += size
        self._idle.clear()
        if len(self._queue) >= BATCH:
            self._wake.set()

    def _outcome(self, exchange: Exchange, identity: str, now: float) -> Outcome | None:
        if exchange.version is None or not exchange.served_domain:
            return None
        rate = self._outcome_rates.get(exchange.arm)
        if rate is None:
            rate = self._outcome_rates[exchange.arm] = PerSecond(OUTCOMES_PER_SECOND)
        if not rate.take(now):
            self._counts.dropped("outcome_rate")
            return None
        return make_outcome(exchange, identity, exchange_cost(exchange, self._prices) or 0.0)

    def _has_room(self, exchange: Exchange, domain: str, policy: SamplePolicy, now: float) -> str | None:
        """The task under which the exchange is kept; None when it is not."""
        if len(exchange.request) > MAX_REQUEST or exchange.reply_size > sum(map(len, exchange.reply)):
            self._counts.dropped("too_long")
            return None
        hour = int(now // HOUR)
        room = self._rooms.get(domain)
        if room is None or room.hour != hour:
            room = self._rooms[domain] = HourlyRoom(hour)
        if room.total >= ceil(policy.per_hour / self._fleet):
            self._counts.sample(domain, kept=False)
            return None
        task = room.stratum(exchange.task)
        kept = room.take(
            policy,
            task,
            exchange.key.id if exchange.key else "",
            exchange.unit,
            into=now % HOUR / HOUR,
            per_unit=self._per_unit,
            key_share=self._key_share,
        )
        self._counts.sample(domain, kept=kept)
        return task if kept else None

    # --- behind it ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to write in the background."""
        if self._task is None:
            sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL))
            self._task = asyncio.create_task(self._write_for_ever(), name="sampler")

    async def stop(self, deadline: float = 5.0) -> None:
        """Write what is queued, for at most ``deadline`` seconds; what is left then is dropped and counted."""
        if self._task is None:
            return
        with contextlib.suppress(TimeoutError):
            await self.drain(deadline)
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._task = None
        self._drop("shutdown", len(self._queue))
        self._queue.clear()

    async def drain(self, deadline: float) -> None:
        """Return when everything offered so far is written. `TimeoutError` after ``deadline`` seconds."""
        self._wake.set()
        async with asyncio.timeout(deadline):
            await self._idle.wait()

    async def _write_for_ever(self) -> None:
        while True:
            if not self._queue:
                self._idle.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_EVERY):
                    await self._wake.wait()
            self._wake.clear()
            while self._queue:
                await self._write_batch()
            if not 0 <= self._clock() - self._shared_at < SHARE_EVERY:
                with contextlib.suppress(RegistryError):  # then the cap holds here alone, until it answers again
                    await self.reconcile()

    async def _write_batch(self) -> None:
        batch: list[_Queued] = []
        read = 0
        while self._queue and len(batch) < BATCH and read < BATCH_READ:
            batch.append(self._queue.popleft())
            read += batch[-1].exchange is not None
        self._queued_bytes -= sum(item.size for item in batch)
        samples, outcomes = await asyncio.to_thread(self._prepare, batch)
        try:
            await self._write_until_taken(samples, outcomes)
        except asyncio.CancelledError:
            self._drop("shutdown", max(len(samples), len(outcomes)))
            raise

    async def reconcile(self) -> None:
        """Tell the fleet how many were kept of each domain this hour, and learn what the others kept.

        Raises `RegistryError`; then nothing is lost and the next one catches up.
        """
        now = self._clock()
        hour = int(now // HOUR)
        rooms = {f"samples.{name}": room for name, room in self._rooms.items() if room.hour == hour}
        self._shared_at = now
        if self._ledger is None or not rooms:
            return
        taken = {name: room.total for name, room in rooms.items()}
        deltas = {name: {"kept": float(total - rooms[name].told)} for name, total in taken.items()}
        totals = await self._ledger(deltas, f"h{hour}", 2 * HOUR)
        for name, room in rooms.items():
            room.told = taken[name]
            room.others = max(0, int(totals.get(name, {}).get("kept", 0.0)) - room.told)

    async def _write_until_taken(self, samples: list[Sample], outcomes: list[Outcome]) -> None:
        pause = 0.25
        while samples or outcomes:
            try:
                await self._write(samples, outcomes)
            except RegistryUnavailable as error:
                if pause == 0.25:
                    log.warning("samples wait: the registry does not take them (%s)", type(error).__name__)
                await asyncio.sleep(pause)
                pause = min(5.0, pause * 2)
            except Exception as error:  # asking again would not help, and the next batch must have its turn
                log.error("a batch of samples is lost: %s", type(error).__name__)  # noqa: TRY400 - may quote contents
                self._drop("refused", max(len(samples), len(outcomes)))
                return
            else:
                return

    def _drop(self, reason: str, count: int) -> None:
        for _ in range(count):
            self._counts.dropped(reason)

    def _prepare(self, batch: Sequence[_Queued]) -> tuple[list[Sample], list[Outcome]]:
        """Read and scrub, in a thread. An exchange that cannot be read costs itself, never the batch."""
        samples: list[Sample] = []
        outcomes: list[Outcome] = []
        for item in batch:
            sample, outcome = None, item.outcome
            if item.exchange is not None:
                try:
                    sample, outcome = self._read(item, item.exchange)
                except Unreadable:
                    self._counts.dropped("unreadable")
                except Exception as error:  # what strangers wrote must not end the sampling
                    log.error("an exchange is lost: %s", type(error).__name__)  # noqa: TRY400 - may quote contents
                    self._counts.dropped("fault")
            if sample is not None:
                samples.append(sample)
            if outcome is not None:
                outcomes.append(outcome)
        return samples, outcomes

    def _read(self, item: _Queued, exchange: Exchange) -> tuple[Sample | None, Outcome | None]:
        """The sample of an exchange that is kept, and its outcome with what only texts tell. Raises `Unreadable`."""
        said, answer = read_exchange(exchange)
        declared = self._tasks.get(item.domain, {})
        outcome = item.outcome
        if outcome is not None:
            wrong = bad_format(said, answer, declared.get(exchange.task))
            outcome = msgspec.structs.replace(outcome, refusal=answer.refusal, bad_format=wrong)
        if item.task is None:
            return None, outcome
        sample = make_sample(
            exchange,
            item.domain,
            item.task,
            said,
            answer,
            share=item.share,
            declared=declared.keys(),
            detectors=self._detectors,
        )
        return sample, outcome
