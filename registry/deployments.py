"""Deployments: the pointers of a domain, moved by compare-and-set. The rules are in ``lifecycle.py``."""

from __future__ import annotations

from collections.abc import Callable

from registry import lifecycle
from registry.audit import read_entry
from registry.errors import Conflict, Corrupt, NotFound, Refused
from registry.records import AuditEntry, Deployment, MoveKind
from registry.store import decode, encode
from registry.versions import VersionStore, served

Rule = Callable[[Deployment], Deployment]


class DeploymentStore(VersionStore):
    """Moves and reads pointers.

    Every move takes ``actor`` and ``why`` for the audit, ``if_epoch`` (refuse when the pointers are not at this epoch)
    and ``request_id`` (asking twice moves once). Every move raises Conflict (somebody moved at the same time, or since
    ``if_epoch``), NotFound (domain or version), Refused (against the rules, or a blocked version), RegistryUnavailable.
    """

    async def deployment(self, domain: str) -> Deployment:
        """The pointers now. Raises NotFound, Corrupt."""
        known, raw = await self._redis.many(
            [("HEXISTS", self._keys.live(domain), "domain"), ("HGET", self._keys.live(domain), "deployment")]
        )
        if not known:
            raise NotFound(f"There is no domain {domain!r}.")
        return decode(Deployment, raw, f"The deployment of {domain}") if raw else Deployment(domain=domain)

    async def promote(
        self, domain: str, version: int, *, actor: str, why: str, if_epoch: int | None = None, request_id: str = ""
    ) -> Deployment:
        """``version`` becomes stable, what was stable becomes previous, a running canary ends."""
        await self._must_exist(domain, version)
        return await self._move(
            domain,
            "promote",
            lambda now: lifecycle.promote(now, version, at=self._clock()),
            actor,
            why,
            if_epoch,
            request_id,
        )

    async def canary(
        self,
        domain: str,
        version: int,
        share: float,
        *,
        actor: str,
        why: str,
        if_epoch: int | None = None,
        request_id: str = "",
    ) -> Deployment:
        """``version`` goes on canary with ``share`` of the traffic; a new experiment (salt) begins."""
        await self._must_exist(domain, version)
        experiment = self._ids()
        return await self._move(
            domain,
            "canary",
            lambda now: lifecycle.canary(now, version, share, experiment=experiment, at=self._clock()),
            actor,
            why,
            if_epoch,
            request_id,
        )

    async def set_share(
        self, domain: str, share: float, *, actor: str, why: str, if_epoch: int | None = None, request_id: str = ""
    ) -> Deployment:
        """The running canary gets ``share``; its experiment goes on."""
        return await self._move(
            domain,
            "share",
            lambda now: lifecycle.set_share(now, share, at=self._clock()),
            actor,
            why,
            if_epoch,
            request_id,
        )

    async def rollback(
        self, domain: str, *, actor: str, why: str, if_epoch: int | None = None, request_id: str = ""
    ) -> Deployment:
        """Stable returns to previous; a running canary ends."""
        return await self._move(
            domain, "rollback", lambda now: lifecycle.rollback(now, at=self._clock()), actor, why, if_epoch, request_id
        )

    async def abort(
        self, domain: str, *, actor: str, why: str, if_epoch: int | None = None, request_id: str = ""
    ) -> Deployment:
        """The canary ends without promotion."""
        return await self._move(
            domain, "abort", lambda now: lifecycle.abort(now, at=self._clock()), actor, why, if_epoch, request_id
        )

    async def set_holdback(
        self,
        domain: str,
        version: int | None,
        share: float = 0.0,
        *,
        actor: str,
        why: str,
        if_epoch: int | None = None,
        request_id: str = "",
    ) -> Deployment:
        """Keep ``share`` of the units on an old version, or end that with None."""
        if version is not None:
            await self._must_exist(domain, version)
        return await self._move(
            domain,
            "holdback",
            lambda now: lifecycle.set_holdback(now, version, share, at=self._clock()),
            actor,
            why,
            if_epoch,
            request_id,
        )

    # --- how a move is made ---------------------------------------------------------------------------------------

    async def _must_exist(self, domain: str, version: int) -> None:
        found = await self.get_version(domain, version)
        if found.blocked:
            raise Refused(f"Version {version} of {domain} is blocked: {found.blocked}.")

    async def _move(
        self, domain: str, kind: MoveKind, rule: Rule, actor: str, why: str, if_epoch: int | None, request_id: str
    ) -> Deployment:
        """Read, apply the rule, write if nobody else wrote in between. One story for every kind of move."""
        request_id = request_id or self._ids()
        if done := await self._redis.command("GET", self._keys.request(domain, request_id)):
            return decode(Deployment, done, f"The request {request_id}")
        now = await self.deployment(domain)
        if if_epoch is not None and now.epoch != if_epoch:
            last = await self.history(domain, 1, moves_only=True)
            raise self._conflict(domain, now, last[0] if last else None, f"you saw epoch {if_epoch}")
        after = rule(now)
        if after == now:
            return now
        entry = self._entry(domain, kind, actor, why, before=now, after=after, request_id=request_id, at=after.moved_at)
        texts = await self._served(domain, after)
        mark = await self._announce(domain)
        keys = (
            self._keys.live(domain),
            self._keys.audit(domain),
            self._keys.moves(domain),
            self._keys.request(domain, request_id),
            self._keys.blocked(domain),
            *self._fleet(),
        )
        args = (now.epoch, after.epoch, encode(after), repr(after.moved_at), entry, self._keep.audit, self._remember)
        answer = await self._redis.run("move", keys, (*args, self._keys.moved, domain, *texts), confirm=True)
        await self._tell(mark)
        if answer[0] == b"moved":
            return after
        if answer[0] == b"done":
            return decode(Deployment, answer[1], f"The request {request_id}")
        if answer[0] == b"missing":
            raise NotFound(f"There is no domain {domain!r}.")
        if answer[0] == b"blocked":
            raise Refused(f"Version {int(answer[1])} of {domain} is blocked.")
        return self._lost_race(domain, after, answer)

    async def _served(self, domain: str, deployment: Deployment) -> list[bytes | int]:
        """Number, text, number, text ... of the versions that gateways will need. Raises Refused, NotFound, Corrupt."""
        numbers = lifecycle.live_versions(deployment)
        texts: list[bytes | int] = []
        for number in numbers:
            version = await self.get_version(domain, number)
            if version.blocked:
                raise Refused(f"Version {number} of {domain} is blocked: {version.blocked}.")
            texts += [number, encode(served(version))]
        return texts

    def _lost_race(self, domain: str, wished: Deployment, answer: list[bytes]) -> Deployment:
        """Somebody moved first. When that already is what was wished, all is well; else it is a conflict."""
        current = (
            decode(Deployment, answer[1], f"The deployment of {domain}") if answer[1] else Deployment(domain=domain)
        )
        if lifecycle.same_pointers(current, wished):
            return current
        try:
            moved = read_entry(answer[2], [b"e", answer[3]]) if answer[2] else None
        except Corrupt:
            moved = None
        raise self._conflict(domain, current, moved, "another move came first")

    def _conflict(self, domain: str, current: Deployment, moved: AuditEntry | None, how: str) -> Conflict:
        what = ""
        if moved is not None:
            words = lifecycle.describe(moved.before, moved.after)
            what = f"; {moved.actor} made the last move, {moved.kind}" + (f" ({words})" if words else "")
            what += f": {moved.why}" if moved.why else ""
        return Conflict(f"{domain} stands at epoch {current.epoch}, {how}{what}.", current, moved)
