"""Domains: the families of tasks that share a system prompt."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from registry.audit import AuditStore
from registry.errors import Conflict, Corrupt, NotFound, Refused
from registry.records import GLOBAL, Deployment, Domain
from registry.redis_keys import FLEET, domain_name
from registry.store import decode, encode, text_of


class DomainStore(AuditStore):
    """Writes and reads domains."""

    async def put_domain(self, domain: Domain, *, actor: str, why: str = "") -> bool:
        """Write a domain's rules; False when they were so already. Gateways see the change within a second.

        Raises Refused (a name that cannot be one, a locked block without a signer, a parent that makes a circle).
        """
        name = domain_name(domain.name)
        if domain.parent == name:
            domain = replace(domain, parent=None)
        old = await self._domain_or_none(name)
        if domain.locked and not (
            old and (old.locked, old.locked_signature) == (domain.locked, domain.locked_signature)
        ):
            if self._signer is None and old is not None and old.locked == domain.locked:
                domain = replace(domain, locked_signature=old.locked_signature)
            elif self._signer is not None:
                await self._check_signer()
                domain = replace(domain, locked_signature=self._signer.sign_locked(domain))
        elif not domain.locked:
            domain = replace(domain, locked_signature="")
        await self._check_parents(domain)
        entry = self._entry(name, "domain", actor, why, detail=_difference(old, domain))
        mark = await self._announce(name)
        keys = (self._keys.live(name), self._keys.audit(name), *self._fleet(self._keys.domains))
        args = (encode(domain), entry, self._keep.audit, self._keys.moved, name)
        answer = await self._redis.run("put_domain", keys, args, confirm=True)
        written = bool(answer[0] == b"put")
        await self._tell(mark, "add" if written else "nothing")
        return written

    async def _check_signer(self) -> None:
        """All signatures of a registry are of one key: what another key signs, its gateways would refuse to serve.

        The first signer is remembered; asked anew for each write, since the key may be rotated meanwhile. Raises
        Refused for any other.
        """
        if self._signer is None:
            return
        mine = self._signer.fingerprint
        raw = await self._redis.command("GET", self._keys.signer)
        if not raw:
            await self._redis.command("SET", self._keys.signer, mine, "NX")
            raw = await self._redis.command("GET", self._keys.signer)
        known = (raw or b"").decode(errors="replace")
        if known != mine:
            raise Refused(
                f"This registry's versions are signed with the key {known}, not with the one here ({mine}): copy its"
                " signing.key to this machine and name it with `signing_key:` or METASPO_SIGNING_KEY."
            )

    async def _check_parents(self, domain: Domain) -> None:
        seen = {domain.name}
        parent = domain.parent
        while parent is not None and parent != GLOBAL:
            if parent in seen:
                raise Refused(f"The parents of {domain.name} run in a circle: {parent} is its own ancestor.")
            seen.add(parent)
            above = await self._domain_or_none(parent)
            if above is None:
                raise Refused(f"The parent {parent!r} of {domain.name} does not exist.")
            parent = above.parent

    async def _domain_or_none(self, name: str) -> Domain | None:
        raw = await self._redis.command("HGET", self._keys.live(name), "domain")
        return decode(Domain, raw, f"The domain {name}") if raw else None

    async def get_domain(self, name: str) -> Domain:
        """Raises NotFound, Corrupt."""
        domain = await self._domain_or_none(name)
        if domain is None:
            raise NotFound(f"There is no domain {name!r}.")
        return domain

    async def domain_names(self) -> list[str]:
        """Names of all domains, sorted."""
        return sorted(text_of(name) for name in await self._redis.command("SMEMBERS", self._keys.domains))

    async def list_domains(self) -> list[Domain]:
        """All domains by name. Unreadable ones are left out and counted."""
        names = await self.domain_names()
        domains = []
        reads = [("HGET", self._keys.live(name), "domain") for name in names]
        for name, raw in zip(names, await self._redis.many(reads, wrong_type=b""), strict=True):
            if raw is None:
                continue
            try:
                domains.append(decode(Domain, raw, f"The domain {name}"))
            except Corrupt:
                self._refuse("domain")
        return domains

    async def delete_domain(self, name: str, actor: str, why: str) -> None:
        """Take a domain out of service and remove what its traffic left: samples, outcomes, votes, datasets.

        Versions and audit stay, so a domain made again under this name goes on where it stopped. Raises NotFound,
        Conflict (a pointer moved at the same time).
        """
        await self.get_domain(name)
        for _ in range(5):
            raw = await self._redis.command("HGET", self._keys.live(name), "deployment")
            before = decode(Deployment, raw, f"The deployment of {name}") if raw else Deployment(domain=name)
            at = max(self._clock(), before.moved_at)
            after = Deployment(domain=name, epoch=before.epoch + 1, moved_at=at)
            entry = self._entry(name, "delete", actor, why, before=before, after=after, at=at)
            mark = await self._announce(name)
            keys = (self._keys.live(name), self._keys.audit(name), self._keys.moves(name))
            args = (before.epoch, after.epoch, encode(after), repr(at), entry, self._keep.audit, self._keys.moved, name)
            answer = await self._redis.run(
                "delete_domain", (*keys, *self._fleet(self._keys.domains)), args, confirm=True
            )
            await self._tell(mark, "remove" if answer[0] != b"conflict" else "keep")
            if answer[0] != b"conflict":
                await self._forget_traffic(name)
                await self.append_audit(FLEET, "delete_domain", actor, why, {"domain": name})
                return
        raise Conflict(f"The pointers of {name} keep moving: stop whatever moves them, then delete the domain.")

    async def _forget_traffic(self, name: str) -> None:
        jobs = f"{self._keys.prefix}:j:{{{name}}}"
        patterns = (f"{self._keys.prefix}:t:{{{name}}}:*", f"{jobs}:dataset*", f"{jobs}:journal:*", f"{jobs}:groups")
        for pattern in patterns:
            found = await self._redis.scan(pattern)
            for start in range(0, len(found), 500):
                await self._redis.many([("UNLINK", key) for key in found[start : start + 500]])


def _difference(old: Domain | None, new: Domain) -> dict[str, Any]:
    """Field -> [before, after] of what changed; a new domain is just marked as new."""
    if old is None:
        return {"new": True}
    before, after = msgspec.to_builtins(old), msgspec.to_builtins(new)
    return {
        key: [before.get(key), after.get(key)] for key in sorted({*before, *after}) if before.get(key) != after.get(key)
    }
