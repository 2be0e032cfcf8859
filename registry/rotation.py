"""A new signing key: everything that the old key signed is signed again, and nothing else is.

The order that leaves no gap: make the new key, run this, give gateways the new public key and writers the new private
one, restart them. A gateway with the old public key goes on serving what it has; one with the new key finds everything
signed. A writer that still holds the old key is refused in one sentence. Running it twice does no harm; what did not
verify under the old key is named and left as it is: a new signature would bless what somebody else wrote.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from registry.domains import DomainStore
from registry.errors import Corrupt, Refused
from registry.records import Domain, ServedVersion, Version
from registry.redis_keys import FLEET
from registry.signing import Signer, Verifier, fingerprint
from registry.store import decode, encode
from registry.versions import served

_PASSES = 5
"""A pointer may move between reading and writing: then its domain is looked at again."""


class Rotation(msgspec.Struct, frozen=True, kw_only=True):
    """What a rotation did: values signed anew, and sentences about those that the old key did not sign."""

    signed: int
    refused: tuple[str, ...]


async def rotate(store: DomainStore, old_public: bytes, new: Signer, *, actor: str, why: str = "") -> Rotation:
    """Sign again, with ``new``, every version and locked block that ``old_public`` verifies.

    A domain that was deleted keeps its old signatures: make it again first if its versions are wanted.
    Raises Refused (the keys are one; this registry is signed with neither), RegistryUnavailable (ask again: it goes
    on).
    """
    redis, keys = store._redis, store._keys
    old, fresh = Verifier(old_public), Verifier(new.public)
    if old_public == new.public:
        raise Refused("The new key is the old one: name another, or the public key that was used before it.")
    known = (await redis.command("GET", keys.signer) or b"").decode(errors="replace")
    if known not in ("", fingerprint(old_public), new.fingerprint):
        raise Refused(
            f"This registry's versions are signed with the key {known}; the old key named here is"
            f" {fingerprint(old_public)}: name the public key that the gateways use now."
        )
    # From here on a writer with the old key is refused.
    await redis.command("SET", keys.signer, new.fingerprint)
    signed, refused = 0, []
    for name in await store.domain_names():
        for _ in range(_PASSES):
            changes, bad = await _changes(store, name, old, fresh, new)
            if not changes:
                break
            mark = await store._announce(name)
            where = (keys.versions(name), keys.live(name), *store._fleet())
            signed += int(await redis.run("sign_again", where, (keys.moved, name, *changes), confirm=True))
            await store._tell(mark)
        refused += bad
    detail = {"from": known, "to": new.fingerprint, "signed": signed, "refused": len(refused)}
    await store.append_audit(FLEET, "rotate_signing_key", actor, why, detail)
    return Rotation(signed=signed, refused=tuple(refused))


async def _changes(
    store: DomainStore, name: str, old: Verifier, fresh: Verifier, new: Signer
) -> tuple[list[Any], list[str]]:
    """Arguments for the script (four for each value), and what was refused."""
    stored, live = await store._redis.many(
        [("HGETALL", store._keys.versions(name)), ("HGETALL", store._keys.live(name))]
    )
    changes: list[Any] = []
    refused: list[str] = []
    values: list[tuple[str, bytes, bytes, Any]] = [
        *(("versions", field, raw, Version) for field, raw in stored.items()),
        *(("live", field, raw, ServedVersion) for field, raw in live.items() if field.startswith(b"v:")),
        *(("live", field, raw, Domain) for field, raw in live.items() if field == b"domain"),
    ]
    for place, field, raw, kind in values:
        label = (
            f"{'Version ' if kind is not Domain else ''}{field.decode(errors='replace').removeprefix('v:')} of {name}"
        )
        try:
            value: Any = decode(kind, raw, label)
        except Corrupt as error:
            refused.append(str(error))
            continue
        if kind is Domain:
            if not value.locked or fresh.locked(value):
                continue
            if not old.locked(value):
                refused.append(f"The locked block of {name} is not signed by the old key.")
                continue
            value = replace(value, locked_signature=new.sign_locked(value))
        else:
            seen = served(value) if isinstance(value, Version) else value
            if fresh.version(seen, name):
                continue
            if not old.version(seen, name):
                refused.append(f"{label} is not signed by the old key.")
                continue
            value = replace(value, signature=new.sign(name, seen.number, seen.hash))
        changes += [place, field, raw, encode(value)]
    return changes, list(dict.fromkeys(refused))
