"""Runs: searches from seed to result, with their events. A domain has at most one that is queued or running."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from registry.errors import Conflict, Corrupt, NotFound, Refused
from registry.records import Budget, Run
from registry.store import DAY, Store, decode, encode, stream_field, text_of

ENDED = ("done", "failed", "cancelled")
_JOURNAL_DAYS = 14
"""A run that nobody took up again for so long has lost its journal, not its result."""


class RunStore(Store):
    """Writes and reads runs. The id of a run is ``<domain>-<random>``."""

    async def create_run(
        self,
        domain: str,
        method: str = "metaspo",
        asked_by: str = "",
        why: str = "",
        budget: Budget | None = None,
        *,
        incumbent: int | None = None,
        request_id: str = "",
    ) -> Run:
        """Begin a run, queued. Raises NotFound, Conflict (one is queued or running: ``current`` is that Run)."""
        if not await self._redis.command("HEXISTS", self._keys.live(domain), "domain"):
            raise NotFound(f"There is no domain {domain!r}.")
        token = (request_id or self._ids()).replace("-", "")
        run = Run(
            id=f"{domain}-{token}",
            domain=domain,
            state="queued",
            method=method,
            asked_by=asked_by,
            why=why,
            queued_at=self._clock(),
            incumbent=incumbent,
            budget=budget,
        )
        if request_id:
            try:
                return await self.get_run(run.id)
            except NotFound:
                pass
        keys = (self._keys.run(domain, run.id), self._keys.live_run(domain), self._keys.runs(domain))
        args = (
            encode(run),
            run.id,
            repr(run.queued_at),
            self._ttl,
            self._keep.runs,
            self._keys.run(domain, ""),
            self._keys.run_events(domain, ""),
            self._keys.run_fence(domain, ""),
        )
        answer = await self._redis.run("create_run", keys, args, confirm=True)
        if answer[0] == b"live":
            live = await self.get_run(text_of(answer[1]))
            raise Conflict(f"A run of {domain} is {live.state} already: {live.id}.", live)
        return run

    @property
    def _ttl(self) -> int:
        return int(self._keep.run_days * DAY)

    async def update_run(self, run: Run, *, fence: int = 0) -> Run:
        """Write a run as it now is. ``fence`` is the lease's number: a writer whose lease went to another is refused.

        Raises NotFound, Conflict (a younger writer, or the run has ended).
        """
        keys = (
            self._keys.run(run.domain, run.id),
            self._keys.live_run(run.domain),
            self._keys.run_fence(run.domain, run.id),
        )
        args = (encode(run), run.id, fence, self._ttl, "1" if run.state in ENDED else "0")
        answer = await self._redis.run("update_run", keys, args, confirm=run.state in ENDED)
        if answer[0] == b"missing":
            raise NotFound(f"There is no run {run.id!r}.")
        if answer[0] == b"fenced":
            raise Conflict(f"The run {run.id} belongs to another worker now (fence {answer[1]}, yours is {fence}).")
        if answer[0] == b"ended":
            raise Conflict(f"The run {run.id} has ended.", decode(Run, answer[1], f"The run {run.id}"))
        return run

    async def get_run(self, run_id: str) -> Run:
        """Raises NotFound, Corrupt."""
        raw = await self._redis.command("GET", self._keys.run(domain_of(run_id), run_id))
        if raw is None:
            raise NotFound(f"There is no run {run_id!r}.")
        return _read(raw, domain_of(run_id), run_id)

    async def live_run(self, domain: str) -> Run | None:
        """The run that is queued or running, if one is."""
        raw = await self._redis.command("GET", self._keys.live_run(domain))
        if raw is None:
            return None
        try:
            return await self.get_run(text_of(raw))
        except NotFound:
            return None

    async def list_runs(self, domain: str | None = None, limit: int = 100) -> list[Run]:
        """Newest first; of one domain or of all. Unreadable ones are left out and counted."""
        if domain is not None:
            names = [domain]
        else:
            names = [text_of(name) for name in await self._redis.command("SMEMBERS", self._keys.domains)]
        indexes = [("ZREVRANGE", self._keys.runs(name), 0, limit - 1) for name in names]
        ids = await self._redis.many(indexes, wrong_type=())
        wanted = [(name, text_of(run_id)) for name, found in zip(names, ids, strict=True) for run_id in found]
        reads = [("GET", self._keys.run(name, run_id)) for name, run_id in wanted]
        runs = []
        for (name, run_id), raw in zip(wanted, await self._redis.many(reads, wrong_type=b"foreign"), strict=True):
            if raw is None:
                continue
            try:
                runs.append(_read(raw, name, run_id))
            except Corrupt:
                self._refuse("run")
        return sorted(runs, key=lambda run: run.queued_at, reverse=True)[:limit]

    async def append_run_event(self, run_id: str, event: dict[str, Any]) -> str:
        """Append one event to the run's story; returns its id. The newest ``run_events`` are kept."""
        key = self._keys.run_events(domain_of(run_id), run_id)
        cap = ("MAXLEN", "~", self._keep.run_events)
        answers = await self._redis.many([("XADD", key, *cap, "*", "e", encode(event)), ("EXPIRE", key, self._ttl)])
        return str(answers[0].decode())

    async def run_events(
        self, run_id: str, after: str = "0", limit: int = 1000, wait: float = 0.0
    ) -> list[tuple[str, dict[str, Any]]]:
        """Events after the one with id ``after``, oldest first. ``wait``: seconds to wait when there is none."""
        key = self._keys.run_events(domain_of(run_id), run_id)
        if not all(part.isdigit() for part in after.split("-", 1)):
            raise Refused(f"{after!r} is not the id of an event.")
        page = await self._redis.command("XRANGE", key, f"({after}", "+", "COUNT", limit)
        if not page and wait > 0:
            found = await self._redis.wait_for(
                "XREAD", "COUNT", limit, "BLOCK", int(wait * 1000), "STREAMS", key, after
            )
            page = found[key.encode()][0] if isinstance(found, dict) and found else found[0][1] if found else []
        events = []
        for event_id, fields in page:
            try:
                events.append((event_id.decode(), decode(dict[str, Any], stream_field(fields, b"e"), "An event")))
            except Corrupt:
                self._refuse("run event")
        return events

    # --- what was paid for, so that a worker on another machine need not pay again ----------------------------------

    async def keep_paid(self, run_id: str, entries: Mapping[str, bytes]) -> None:
        """Keep replies under the content hash of their request. Writing one twice is writing it once."""
        if entries:
            key = self._keys.run_journal(domain_of(run_id), run_id)
            flat = [part for pair in entries.items() for part in pair]
            await self._redis.many([("HSET", key, *flat), ("EXPIRE", key, int(_JOURNAL_DAYS * DAY))])

    async def paid(self, run_id: str) -> dict[str, bytes]:
        """Everything that was kept for a run."""
        raw = await self._redis.command("HGETALL", self._keys.run_journal(domain_of(run_id), run_id))
        return {text_of(name): reply for name, reply in raw.items()}

    async def drop_paid(self, run_id: str) -> None:
        """The run has ended: nobody will ask again."""
        await self._redis.command("UNLINK", self._keys.run_journal(domain_of(run_id), run_id))


def _read(raw: bytes, domain: str, run_id: str) -> Run:
    """A stored run. Raises Corrupt, also for another's."""
    run = decode(Run, raw, f"The run {run_id}")
    if (run.id, run.domain) != (run_id, domain):
        raise Corrupt(f"The run {run_id} is not what was written: another stands in its place.")
    return run


def domain_of(run_id: str) -> str:
    """The domain that a run's id names. Raises NotFound for what cannot be a run's id."""
    domain, dash, token = run_id.rpartition("-")
    if not (domain and dash and token):
        raise NotFound(f"There is no run {run_id!r}.")
    return domain
