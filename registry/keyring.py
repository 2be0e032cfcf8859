"""Gateway keys: shown once, stored as a hash."""

from __future__ import annotations

import secrets
from typing import Any

from msgspec.structs import replace

from registry.deployments import DeploymentStore
from registry.digests import hash_key
from registry.errors import Conflict, Corrupt, NotFound, Refused
from registry.records import KeyRecord, Role
from registry.redis_keys import FLEET, domain_name
from registry.store import DAY, decode, encode

__all__ = ["KeyStore", "hash_key"]

_LIMITS = ("requests_per_minute", "tokens_per_minute", "parallel", "usd_per_day", "expires_at")


class KeyStore(DeploymentStore):
    """Makes, lists and revokes keys. Gateways see each change within a second."""

    async def create_key(
        self, name: str, role: Role, domain: str | None = None, *, actor: str = "operator", **limits: Any
    ) -> tuple[KeyRecord, str]:
        """A new random key -> (its record, its text: shown now and never again).

        ``limits``: requests_per_minute, tokens_per_minute, parallel, usd_per_day, expires_at. Raises Refused, Conflict
        (a key of that name is in use).
        """
        if unknown := sorted(set(limits) - set(_LIMITS)):
            raise Refused(f"A key has no limit {unknown[0]!r}; its limits are {', '.join(_LIMITS)}.")
        if not name.strip() or not name.isprintable() or len(name) > 200:
            raise Refused("A key needs a name: printable, at most 200 characters, like the app or person it is for.")
        if domain is not None:
            domain_name(domain)
        if any(key.name == name and key.revoked_at is None for key in await self.list_keys()):
            raise Conflict(f"A key named {name!r} is in use: revoke it first, or choose another name.")
        text = f"msp-{secrets.token_urlsafe(32)}"
        record = KeyRecord(
            id="k" + hash_key(text)[7:19],
            name=name,
            role=role,
            hash=hash_key(text),
            domain=domain,
            created_at=self._clock(),
            **limits,
        )
        await self._put_key(None, record, "create_key", actor, f"{role} key for {name}")
        return record, text

    async def put_key(self, record: KeyRecord, *, actor: str, why: str = "") -> bool:
        """Write a key whose text somebody else chose (the config file); False when it is so already."""
        old = await self._key_of_hash(record.hash)
        if old is not None:
            record = replace(record, created_at=old.created_at)
        return await self._put_key(old, record, "put_key", actor, why)

    async def _key_of_hash(self, digest: str) -> KeyRecord | None:
        raw = await self._redis.command("HGET", self._keys.keyring, digest)
        return decode(KeyRecord, raw, "A key") if raw else None

    async def _put_key(self, old: KeyRecord | None, new: KeyRecord, kind: str, actor: str, why: str) -> bool:
        if old == new:
            return False
        entry = self._entry(FLEET, kind, actor, why, detail={"key": new.id, "name": new.name, "role": new.role})
        keys = (self._keys.keyring, self._keys.fleet_audit, self._keys.epoch, self._keys.changes)
        args = (new.hash, encode(old) if old else "", encode(new), entry, self._keep.audit, self._keys.moved)
        answer = await self._redis.run("put_key", keys, args, confirm=True)
        if answer[0] == b"conflict":
            raise Conflict(f"The key {new.name!r} was changed by somebody else at this moment: look again.")
        return bool(answer[0] == b"put")

    async def list_keys(self) -> list[KeyRecord]:
        """All keys, by name; revoked ones too. Unreadable ones are left out and counted."""
        keys = []
        for raw in (await self._redis.command("HGETALL", self._keys.keyring)).values():
            try:
                keys.append(decode(KeyRecord, raw, "A key"))
            except Corrupt:
                self._refuse("key")
        return sorted(keys, key=lambda key: (key.name, key.created_at))

    async def revoke_key(self, id_or_name: str, actor: str, why: str = "") -> KeyRecord:
        """The key stops working within a second. Raises NotFound; revoking twice is revoking once."""
        keys = await self.list_keys()
        found = [key for key in keys if id_or_name in (key.id, key.name)]
        live = [key for key in found if key.revoked_at is None]
        if not found:
            raise NotFound(f"There is no key {id_or_name!r}.")
        if not live:
            return found[-1]
        if len(live) > 1:
            raise Conflict(
                f"Several keys are named {id_or_name!r}: name one by its id ({', '.join(k.id for k in live)})."
            )
        record = replace(live[0], revoked_at=self._clock())
        await self._put_key(live[0], record, "revoke_key", actor, why)
        return record

    async def drop_old_keys(self, days: float = 90) -> int:
        """Remove the records of keys that were revoked more than ``days`` days ago; returns how many."""
        before = self._clock() - days * DAY
        old = [key for key in await self.list_keys() if key.revoked_at is not None and key.revoked_at < before]
        if old:
            await self._redis.command("HDEL", self._keys.keyring, *(key.hash for key in old))
        return len(old)

    async def secret(self, name: str) -> bytes:
        """A random secret of the fleet (32 bytes), made by whoever asks first: signs exchange ids and cookies."""
        key = self._keys.secret(name)
        await self._redis.command("SET", key, secrets.token_hex(32), "NX")
        raw = await self._redis.command("GET", key)
        try:
            return bytes.fromhex(raw.decode())
        except (ValueError, AttributeError) as error:
            raise Corrupt(f"The fleet secret {name!r} is not what was written.") from error
