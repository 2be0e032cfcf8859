"""Approvals: what waits for a person."""

from __future__ import annotations

from typing import Literal

from msgspec.structs import replace

from registry.errors import Conflict, Corrupt, NotFound
from registry.records import Approval
from registry.store import Store, decode, encode


class ApprovalStore(Store):
    """Asks, lists and decides."""

    async def put_approval(self, approval: Approval) -> bool:
        """Ask; False when this id was asked before. The oldest decided ones beyond the cap go."""
        old = await self._redis.command("HGET", self._keys.approvals, approval.id)
        if old is not None:
            return False
        count = await self._write(approval, b"")
        if count > self._keep.approvals:
            decided = [one for one in await self.list_approvals() if one.decision]
            oldest = sorted(decided, key=lambda one: one.asked_at)[: count - self._keep.approvals]
            if oldest:
                await self._redis.command("HDEL", self._keys.approvals, *(one.id for one in oldest))
        return True

    async def list_approvals(self, domain: str | None = None, *, waiting_only: bool = False) -> list[Approval]:
        """Newest first. Unreadable ones are left out and counted."""
        found = []
        for raw in (await self._redis.command("HGETALL", self._keys.approvals)).values():
            try:
                approval = decode(Approval, raw, "An approval")
            except Corrupt:
                self._refuse("approval")
                continue
            if (domain is None or approval.domain == domain) and not (waiting_only and approval.decision):
                found.append(approval)
        return sorted(found, key=lambda approval: approval.asked_at, reverse=True)

    async def get_approval(self, approval_id: str) -> Approval:
        """Raises NotFound, Corrupt."""
        raw = await self._redis.command("HGET", self._keys.approvals, approval_id)
        if raw is None:
            raise NotFound(f"There is no approval {approval_id!r}.")
        return decode(Approval, raw, f"The approval {approval_id}")

    async def decide_approval(
        self, approval_id: str, decision: Literal["approved", "rejected"], by: str, why: str = ""
    ) -> Approval:
        """The first decision stands; the same one again changes nothing. Raises NotFound, Conflict."""
        before = await self.get_approval(approval_id)
        if before.decision == decision:
            return before
        if before.decision:
            raise Conflict(f"{before.by} has {before.decision} it already: {before.why or 'no reason given'}.", before)
        after = replace(before, decision=decision, by=by, why=why, decided_at=self._clock())
        await self._write(after, encode(before))
        return after

    async def _write(self, approval: Approval, seen: bytes) -> int:
        answer = await self._redis.run(
            "put_approval", (self._keys.approvals,), (approval.id, seen, encode(approval)), confirm=True
        )
        if answer[0] == b"conflict":
            current = decode(Approval, answer[1], f"The approval {approval.id}") if answer[1] else None
            raise Conflict(f"Somebody decided the approval {approval.id} at this moment.", current)
        return int(answer[1])
