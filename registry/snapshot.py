"""The snapshot: what a gateway serves from. Read in one round trip, checked value by value; later, only what moved."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import msgspec

from registry.connection import Connection
from registry.errors import Corrupt
from registry.lifecycle import live_versions
from registry.records import Deployment, Domain, DomainView, KeyRecord, ServedVersion, Snapshot
from registry.redis_keys import FLEET
from registry.signing import Verifier, content_hash
from registry.store import MARKS_LIVE, decode, text_of

FOREIGN: Final[dict[bytes, bytes]] = {b"\0foreign": b""}
"""Stands for a hash of ours in whose place lies another kind of value."""


class RawSnapshot(msgspec.Struct, frozen=True):
    """What Redis said, not yet looked at: fleet epoch, keys, and each domain's live hash."""

    epoch: int
    keys: dict[bytes, bytes]
    domains: dict[str, dict[bytes, bytes]]


async def fetch_all(redis: Connection) -> RawSnapshot:
    """All domains and keys. One script, so one instant; in a Cluster each domain is one instant of its own."""
    keys = redis.keys
    if not redis.clustered:
        before, after = keys.live("\n").split("\n")
        answer = await redis.read("snapshot", (keys.epoch, keys.domains, keys.keyring), (before, after))
        rest = answer[2:]
        domains = {text_of(name): _pairs(flat) for name, flat in zip(rest[::2], rest[1::2], strict=True)}
        return RawSnapshot(_epoch(answer[0]), _pairs(answer[1]), domains)
    epoch, listed = await redis.many([("GET", keys.epoch), ("SMEMBERS", keys.domains)])
    names = [text_of(name) for name in listed]
    places = [keys.keyring, *(keys.live(name) for name in names)]
    keyring, *lives = await redis.many([("HGETALL", place) for place in places], wrong_type=FOREIGN)
    return RawSnapshot(_epoch(epoch or b"0"), keyring, dict(zip(names, lives, strict=True)))


class Changes(msgspec.Struct, frozen=True):
    """What changed since an epoch, and what was asked for besides: names -> live hashes; the keys when they did."""

    epoch: int
    domains: dict[str, dict[bytes, bytes]]
    keys: dict[bytes, bytes] | None


async def fetch_changes(
    redis: Connection, since: int, also: Collection[str] = (), *, most: int, now: float
) -> Changes | int:
    """Only what moved since the epoch ``since``, in one round trip (in a Cluster: two), and the domains ``also``.

    The name ``*`` stands for the keys. Just the fleet's epoch when it went back, or when more than ``most`` changed:
    then everything is to be read.
    """
    keys = redis.keys
    if not redis.clustered:
        before, after = keys.live("\n").split("\n")
        head = (since, most, before, after)
        answer = await redis.read("changes", (keys.epoch, keys.changes, keys.keyring), (*head, *also))
        epoch, everything, *rest = answer
        if everything:
            return _epoch(epoch)
        found = {text_of(name): _pairs(flat) for name, flat in zip(rest[::2], rest[1::2], strict=True)}
        return Changes(_epoch(epoch), found, found.pop(FLEET, None))
    text, changed, dirty = await redis.many(
        [
            ("GET", keys.epoch),
            ("ZRANGEBYSCORE", keys.changes, f"({since}", "+inf", "LIMIT", 0, most + 1),
            ("HGETALL", keys.dirty),
        ]
    )
    number = _epoch(text or b"0")
    if number < since or len(changed) > most:
        return number
    marked = {text_of(mark).partition(":")[0] for mark, begun in dirty.items() if now - _number(begun) < MARKS_LIVE}
    names = sorted({text_of(name) for name in changed} | marked | set(also))
    places = [keys.keyring if name == FLEET else keys.live(name) for name in names]
    lives = await redis.many([("HGETALL", place) for place in places], wrong_type=FOREIGN)
    found = dict(zip(names, lives, strict=True))
    return Changes(number, found, found.pop(FLEET, None))


def _number(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _epoch(text: bytes) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise Corrupt("The fleet's epoch is not what was written: something else wrote it.") from error


def _pairs(flat: Any) -> dict[bytes, bytes]:
    if flat == 0:
        return FOREIGN
    return flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))


def read_view(name: str, live: Mapping[bytes, bytes], verifier: Verifier | None) -> DomainView | None:
    """One domain as a gateway serves it; None when it does not exist. Raises Corrupt: it must not be served."""
    if live == FOREIGN:
        raise Corrupt(f"The domain {name} is another kind of value: something else wrote it.")
    raw = live.get(b"domain")
    if raw is None:
        return None
    domain = decode(Domain, raw, f"The domain {name}")
    pointers = live.get(b"deployment")
    deployment = decode(Deployment, pointers, f"The deployment of {name}") if pointers else Deployment(domain=name)
    versions = {}
    for number in live_versions(deployment):
        text = live.get(b"v:%d" % number)
        if text is None:
            raise Corrupt(f"The deployment of {name} points at version {number}, which is not there.")
        versions[number] = decode(ServedVersion, text, f"Version {number} of {name}")
    view = DomainView(domain=domain, deployment=deployment, versions=versions)
    check_view(name, view, verifier)
    return view


def check_view(name: str, view: DomainView, verifier: Verifier | None) -> None:
    """Raises Corrupt unless names, numbers, hashes and signatures are right."""
    if view.domain.name != name or view.deployment.domain != name:
        raise Corrupt(f"The domain {name} holds a value of another domain.")
    if not 0 <= view.deployment.share <= 0.5 or not 0 <= view.deployment.holdback_share < 1:
        raise Corrupt(f"The deployment of {name} holds a share that cannot be.")
    for number in live_versions(view.deployment):
        served = view.versions.get(number)
        if served is None or served.number != number:
            raise Corrupt(f"The deployment of {name} points at version {number}, which is not there.")
        if verifier is None:
            if content_hash(served.system_prompt) != served.hash:
                raise Corrupt(f"Version {number} of {name} does not match its hash.")
        elif not verifier.version(served, name):
            raise Corrupt(f"Version {number} of {name} is not signed by our key, or its text was changed.")
    if verifier is not None and not verifier.locked(view.domain):
        raise Corrupt(f"The locked block of {name} is not signed by our key.")


def read_keys(raw: Mapping[bytes, bytes], refuse: Callable[[str, str], None]) -> dict[str, KeyRecord]:
    """The usable keys by hash; each unreadable one is handed to ``refuse(what, why)``."""
    keys: dict[str, KeyRecord] = {}
    if raw == FOREIGN:
        refuse("key", "The place of the keys holds another kind of value: something else wrote it.")
        return keys
    for digest, text in raw.items():
        try:
            record = decode(KeyRecord, text, f"The key {digest.decode(errors='replace')[:19]}")
        except Corrupt as error:
            refuse("key", str(error))
            continue
        if record.hash.encode() != digest:
            refuse("key", f"The key {record.id} stands in another key's place.")
        elif record.revoked_at is None:
            keys[record.hash] = record
    return keys


def assemble(raw: RawSnapshot, at: float, verifier: Verifier | None, refuse: Callable[[str, str], None]) -> Snapshot:
    """A whole snapshot from what Redis said; refused values are left out and told."""
    domains = {}
    for name, live in raw.domains.items():
        try:
            view = read_view(name, live, verifier)
        except Corrupt as error:
            refuse("domain", str(error))
            continue
        if view is not None:
            domains[name] = view
    return Snapshot(epoch=raw.epoch, taken_at=at, domains=domains, keys=read_keys(raw.keys, refuse))
