"""Deployments: the pointers of a domain, moved by compare-and-set. The rules are in ``lifecycle.py``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from registry import lifecycle
from registry.audit import read_entry
from registry.errors import Conflict, Corrupt, NotFound, Refused
from registry.records import AuditEntry, Deployment, MoveKind
from registry.store import decode, encode
from registry.versions import VersionStore, read_version, served

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
        return await self._move(
            domain,
            "promote",
            lambda now: lifecycle.promote(now, version, at=self._clock()),
            actor,
            why,
            if_epoch,
            request_id,
            version,
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
        experiment = self._ids()
        return await self._move(
            domain,
            "canary",
            lambda now: lifecycle.canary(now, version, share, experiment=experiment, at=self._clock()),
            actor,
            why,
            if_epoch,
            request_id,
            version,
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
        return await self._move(
            domain,
            "holdback",
            lambda now: lifecycle.set_holdback(now, version, share, at=self._clock()),
            actor,
            why,
            if_epoch,
            request_id,
            version,
        )

    # --- how a move is made ---------------------------------------------------------------------------------------

    async def _move(
        self,
        domain: str,
        kind: MoveKind,
        rule: Rule,
        actor: str,
        why: str,
        if_epoch: int | None,
        request_id: str,
        version: int | None = None,
    ) -> Deployment:
        """Read, apply the rule, write if nobody else wrote in between. One story for every kind of move.

        ``version``: the one that the wish names; it must be there, and not be blocked, also where nothing moves.
        """
        asked_for = request_id
        request_id = request_id or self._ids()
        named = [version] if version is not None else []
        done, known, raw, *texts = await self._redis.many(
            [
                ("GET", self._keys.request(domain, request_id)),
                ("HEXISTS", self._keys.live(domain), "domain"),
                ("HGET", self._keys.live(domain), "deployment"),
                *self._reads(domain, named),
            ]
        )
        if done:
            return decode(Deployment, done, f"The request {request_id}")
        if not known:
            raise NotFound(f"There is no domain {domain!r}.")
        found = self._usable(domain, named, texts)
        now = decode(Deployment, raw, f"The deployment of {domain}") if raw else Deployment(domain=domain)
        if if_epoch is not None and now.epoch != if_epoch:
            last = await self.history(domain, 1, moves_only=True)
            raise self._conflict(domain, now, last[0] if last else None, f"you saw epoch {if_epoch}")
        after = rule(now)
        if after == now:
            return await self._fulfilled(domain, now, asked_for)
        entry = self._entry(domain, kind, actor, why, before=now, after=after, request_id=request_id, at=after.moved_at)
        others = [number for number in lifecycle.live_versions(after) if number not in found]
        found |= self._usable(domain, others, await self._redis.many(self._reads(domain, others)))
        served_texts = [part for number in lifecycle.live_versions(after) for part in (number, found[number])]
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
        answer = await self._redis.run("move", keys, (*args, self._keys.moved, domain, *served_texts), confirm=True)
        await self._tell(mark)
        if answer[0] == b"moved":
            return after
        if answer[0] == b"done":
            return decode(Deployment, answer[1], f"The request {request_id}")
        if answer[0] == b"missing":
            raise NotFound(f"There is no domain {domain!r}.")
        if answer[0] == b"blocked":
            raise Refused(f"Version {int(answer[1])} of {domain} is blocked.")
        current = self._lost_race(domain, after, answer)
        return await self._fulfilled(domain, current, asked_for)

    async def _fulfilled(self, domain: str, now: Deployment, request_id: str) -> Deployment:
        """A wish that was fulfilled already is answered by its request id too: asked again later, it moves nothing."""
        if request_id:
            key = self._keys.request(domain, request_id)
            await self._redis.command("SET", key, encode(now), "NX", "EX", self._remember)
        return now

    def _reads(self, domain: str, numbers: Sequence[int]) -> list[tuple[str, str, int]]:
        places = (self._keys.versions(domain), self._keys.blocked(domain))
        return [("HGET", place, number) for number in numbers for place in places]

    def _usable(self, domain: str, numbers: Sequence[int], raw: Sequence[bytes | None]) -> dict[int, bytes]:
        """What gateways will need of these versions, from the answers to ``_reads``.

        Raises Refused, NotFound, Corrupt.
        """
        texts = {}
        for number, text, blocked in zip(numbers, raw[::2], raw[1::2], strict=True):
            if text is None:
                raise NotFound(f"{domain} has no version {number}.")
            version = read_version(domain, number, text, blocked)
            if version.blocked:
                raise Refused(f"Version {number} of {domain} is blocked: {version.blocked}.")
            texts[number] = encode(served(version))
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
