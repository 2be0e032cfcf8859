"""The snapshot: what a gateway serves from. Read in one round trip, checked value by value, kept as a file.

The file holds one line per domain, each with its own checksum, so that a truncated or tampered file gives what is whole
in it: ``<xxh3 of the JSON, 16 hex digits> <JSON>``. The first line is the head, the second the keys.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec
import xxhash

from registry.connection import Connection
from registry.errors import Corrupt
from registry.lifecycle import live_versions
from registry.records import Deployment, Domain, DomainView, KeyRecord, ServedVersion, Snapshot
from registry.signing import Verifier, content_hash
from registry.store import decode, encode

FORMAT: Final = 1
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
        domains = {name.decode(): _pairs(flat) for name, flat in zip(rest[::2], rest[1::2], strict=True)}
        return RawSnapshot(_epoch(answer[0]), _pairs(answer[1]), domains)
    epoch, names = await redis.many([("GET", keys.epoch), ("SMEMBERS", keys.domains)])
    keyring = (await redis.many([("HGETALL", keys.keyring)], wrong_type=FOREIGN))[0]
    found = await fetch_domains(redis, [name.decode() for name in names])
    return RawSnapshot(_epoch(epoch or b"0"), keyring, found)


def _epoch(text: bytes) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise Corrupt("The fleet's epoch is not what was written: something else wrote it.") from error


async def fetch_domains(redis: Connection, names: list[str]) -> dict[str, dict[bytes, bytes]]:
    """The live hashes of some domains; empty for one that does not exist."""
    answers = await redis.many([("HGETALL", redis.keys.live(name)) for name in names], wrong_type=FOREIGN)
    return dict(zip(names, answers, strict=True))


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


# --- the file --------------------------------------------------------------------------------------------------------


def _line(body: bytes) -> bytes:
    return xxhash.xxh3_64_hexdigest(body).encode() + b" " + body + b"\n"


def snapshot_lines(snapshot: Snapshot) -> Iterator[bytes]:
    """The lines of the file."""
    head = {"format": FORMAT, "epoch": snapshot.epoch, "taken_at": snapshot.taken_at, "domains": len(snapshot.domains)}
    yield _line(encode(head))
    yield _line(encode(list(snapshot.keys.values())))
    for view in snapshot.domains.values():
        yield _line(encode(view))


def write_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Replace the file at once: a reader sees the old or the new one, never half. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        with draft.open("wb", buffering=2**20) as file:
            draft.chmod(0o600)
            file.writelines(snapshot_lines(snapshot))
        draft.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()


def read_snapshot(path: Path, verifier: Verifier | None, refuse: Callable[[str, str], None]) -> Snapshot | None:
    """What is whole in the file; None when there is no file or its head is not ours."""
    try:
        with path.open("rb") as file:
            head = _body(file.readline(), refuse)
            if head is None or (about := decode(dict[str, Any], head, "The head")).get("format") != FORMAT:
                return None
            keys: dict[str, KeyRecord] = {}
            if (body := _body(file.readline(), refuse)) is not None:
                keys = {record.hash: record for record in decode(list[KeyRecord], body, "The keys")}
            views = []
            for line in file:
                if (body := _body(line, refuse)) is None:
                    continue
                try:
                    views.append(decode(DomainView, body, "A domain in the snapshot file"))
                except Corrupt as error:
                    refuse("file", str(error))
            domains = _checked(views, verifier, refuse)
            return Snapshot(epoch=about["epoch"], taken_at=about["taken_at"], domains=domains, keys=keys)
    except FileNotFoundError:
        return None
    except (OSError, Corrupt, KeyError) as error:
        refuse("file", f"The snapshot file cannot be used: {error}")
        return None


def _checked(
    views: list[DomainView], verifier: Verifier | None, refuse: Callable[[str, str], None]
) -> dict[str, DomainView]:
    """The good ones. Signatures are checked on every core: the library lets go of the interpreter meanwhile."""

    def check(view: DomainView) -> str:
        try:
            check_view(view.domain.name, view, verifier)
        except Corrupt as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads:
        step = 250
        parts = [views[start : start + step] for start in range(0, len(views), step)]
        verdicts = [why for part in threads.map(lambda some: [check(view) for view in some], parts) for why in part]
    for why in verdicts:
        if why:
            refuse("file", why)
    return {view.domain.name: view for view, why in zip(views, verdicts, strict=True) if not why}


def _body(line: bytes, refuse: Callable[[str, str], None]) -> bytes | None:
    """The JSON of a line whose checksum is right."""
    digest, _, rest = line.partition(b" ")
    body = rest.rstrip(b"\n")
    if not line.endswith(b"\n") or xxhash.xxh3_64_hexdigest(body).encode() != digest:
        refuse("file", "A line of the snapshot file is damaged.")
        return None
    return body
