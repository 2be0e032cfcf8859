"""The audit: who did what, when and why. Append-only: Redis itself refuses an entry id that is not the next."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from registry.errors import Corrupt, NotFound
from registry.records import AuditEntry, Deployment
from registry.redis_keys import FLEET
from registry.store import Store, decode, stream_field


class AuditStore(Store):
    """Reads and appends audit entries. The domain ``*`` is the audit of what belongs to the whole fleet."""

    async def append_audit(
        self,
        domain: str,
        kind: str,
        actor: str,
        why: str,
        detail: dict[str, Any] | None = None,
        *,
        request_id: str = "",
    ) -> int:
        """Append one entry; returns its number. Idempotent by request id."""
        request_id = request_id or self._ids()
        entry = self._entry(domain, kind, actor, why, request_id=request_id, detail=detail)
        keys = (self._keys.audit(domain), self._keys.request(domain, "audit:" + request_id))
        args = (entry, self._keep.audit, self._remember)
        return int(await self._redis.run("append_audit", keys, args, confirm=True))

    async def history(
        self, domain: str, limit: int = 100, before: int | None = None, *, moves_only: bool = False
    ) -> list[AuditEntry]:
        """The audit of a domain, newest first, from before entry number ``before``. Unreadable entries are counted."""
        entries: list[AuditEntry] = []
        end = "+" if before is None else f"({before}-0"
        while len(entries) < limit:
            page = await self._redis.command(
                "XREVRANGE", self._keys.audit(domain), end, "-", "COUNT", max(limit - len(entries), 50)
            )
            if not page:
                break
            for entry_id, fields in page:
                try:
                    entry = read_entry(entry_id, fields)
                except Corrupt:
                    self._refuse("audit")
                    continue
                if not moves_only or entry.after is not None:
                    entries.append(entry)
            end = f"({page[-1][0].decode()}"
        return entries[:limit]

    async def fleet_history(self, limit: int = 100, before: int | None = None) -> list[AuditEntry]:
        """The audit of keys, backups and other things of the whole fleet."""
        return await self.history(FLEET, limit, before)

    async def served_at(self, domain: str, at: float) -> Deployment:
        """What this domain's pointers were at time ``at`` (seconds since the epoch); empty before the first move.

        Raises NotFound when the audit no longer reaches back so far, Corrupt.
        """
        moves = self._keys.moves(domain)
        last, following = await self._redis.many(
            [
                ("ZREVRANGEBYSCORE", moves, repr(at), "-inf", "LIMIT", 0, 1),
                ("ZRANGEBYSCORE", moves, f"({at!r}", "+inf", "LIMIT", 0, 1),
            ]
        )
        if last and (entry := await self._entry_of(domain, last[0])) is not None:
            return entry.after or Deployment(domain=domain)
        # Before the first move, or the entry is no longer kept: then the next one says what it found.
        if following and (entry := await self._entry_of(domain, following[0])) is not None:
            before = entry.before or Deployment(domain=domain)
            if last or not before.epoch or before.moved_at <= at:
                return before
        elif not last and not following:
            return Deployment(domain=domain)
        raise NotFound(f"The audit of {domain} no longer reaches back to that time.")

    async def _entry_of(self, domain: str, move: bytes) -> AuditEntry | None:
        try:
            seq = int(move)
        except ValueError as error:
            raise Corrupt(f"The moves of {domain} hold what is no number of an audit entry.") from error
        page = await self._redis.command("XRANGE", self._keys.audit(domain), f"{seq}-0", f"{seq}-0")
        return read_entry(*page[0]) if page else None


def read_entry(entry_id: bytes, fields: Any) -> AuditEntry:
    """One stream entry as a record; its number is the stream's. Raises Corrupt."""
    seq = int(entry_id.split(b"-")[0])
    entry = decode(AuditEntry, stream_field(fields, b"e"), f"Audit entry {seq}")
    return replace(entry, seq=seq)
