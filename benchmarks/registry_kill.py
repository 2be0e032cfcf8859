"""``kill -9`` of Redis under write load, again and again: is anything acknowledged lost, is anything half applied?

Writers add versions, move pointers, append audit entries and create keys, each wish with a request id that is repeated
until it is acknowledged. Meanwhile the embedded server is killed at random moments and started again. At the end every
acknowledgement is looked up, and every domain is checked for internal agreement.

    python -m benchmarks.registry_kill --kills 500 --write docs/results/registry_kill.json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from registry import (
    Conflict,
    Deployment,
    Domain,
    EmbeddedRedis,
    Lineage,
    Refused,
    Registry,
    RegistryUnavailable,
    Signer,
)

SEED = 20261120
DOMAINS = ("d0", "d1", "d2", "d3")


@dataclass
class Acknowledged:
    """What the registry said that it keeps."""

    versions: list[tuple[str, int, str]] = field(default_factory=list)
    moves: list[tuple[str, str, Deployment]] = field(default_factory=list)
    notes: list[tuple[str, int, str]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def count(self) -> int:
        return len(self.versions) + len(self.moves) + len(self.notes) + len(self.keys)


@dataclass
class Report:
    """The outcome: ``problems`` must be empty."""

    kills: int
    seconds: float
    versions: int
    moves: int
    audit_entries: int
    keys: int
    refused: int
    problems: list[str]


async def kill_story(home: Path, kills: int, *, seed: int = SEED, writers: int = 6) -> Report:
    """Run the whole story on a fresh home."""
    chance = random.Random(seed)
    began = time.monotonic()
    with EmbeddedRedis.start(home) as server:
        registry = await Registry.connect(server.url, signer=Signer.create(bytes(32)))
        for name in DOMAINS:
            await registry.put_domain(Domain(name=name, parent=None), actor="setup")
            first = await registry.add_version(name, f"First of {name}", lineage=Lineage(author="setup"))
            await registry.promote(name, first.number, actor="setup", why="first", request_id="setup")
        kept = Acknowledged()
        stop = asyncio.Event()
        refused = [0]
        tasks = [
            asyncio.create_task(_write(registry, kept, stop, random.Random(chance.random()), number, refused))
            for number in range(writers)
        ]
        for _ in range(kills):
            await _some_writes(kept, chance)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.restart)
        stop.set()
        await asyncio.gather(*tasks)
        problems = await _problems(registry, kept)
        entries = sum([len(await registry.history(name, 10**6)) for name in DOMAINS])
        await registry.close()
    return Report(
        kills=kills,
        seconds=round(time.monotonic() - began, 1),
        versions=len(kept.versions),
        moves=len(kept.moves),
        audit_entries=entries,
        keys=len(kept.keys),
        refused=refused[0],
        problems=problems,
    )


async def _some_writes(kept: Acknowledged, chance: random.Random) -> None:
    """Until a random number of acknowledgements more, and a moment: the kill hits the middle of something."""
    enough = kept.count() + chance.randint(0, 12)
    until = time.monotonic() + 2.0
    while kept.count() < enough and time.monotonic() < until:
        await asyncio.sleep(0.001)
    await asyncio.sleep(chance.expovariate(1 / 0.003))


async def _until_acknowledged(wish: Callable[[], Awaitable[object]]) -> object:
    while True:
        try:
            return await wish()
        except RegistryUnavailable:
            await asyncio.sleep(0.005)


async def _write(
    registry: Registry, kept: Acknowledged, stop: asyncio.Event, chance: random.Random, writer: int, refused: list[int]
) -> None:
    count = 0
    while not stop.is_set():
        count += 1
        domain, request = chance.choice(DOMAINS), f"w{writer}-{count}"
        kind = chance.choice(("version", "promote", "promote", "canary", "abort", "note", "key"))
        with contextlib.suppress(Conflict, Refused):
            refused[0] += 1
            await _one(registry, kept, domain, request, kind, chance)
            refused[0] -= 1


async def _one(
    registry: Registry, kept: Acknowledged, domain: str, request: str, kind: str, chance: random.Random
) -> None:
    if kind == "version":
        text = f"{domain} {request}"
        version = await _until_acknowledged(
            lambda: registry.add_version(domain, text, lineage=Lineage(author=request), request_id=request)
        )
        kept.versions.append((domain, version.number, text))  # type: ignore[attr-defined]
    elif kind == "note":
        seq = await _until_acknowledged(
            lambda: registry.append_audit(domain, "note", "writer", request, request_id=request)
        )
        kept.notes.append((domain, seq, request))  # type: ignore[arg-type]
    elif kind == "key":
        name = await _key(registry, request)
        kept.keys.append(name)
    else:
        count = len([one for one in kept.versions if one[0] == domain]) + 1
        number = chance.randint(1, max(1, count // 2))
        share = chance.choice((0.01, 0.1, 0.3))
        moves: dict[str, Callable[[], Awaitable[Deployment]]] = {
            "promote": lambda: registry.promote(domain, number, actor="writer", why="", request_id=request),
            "canary": lambda: registry.canary(domain, number, share, actor="writer", why="", request_id=request),
            "abort": lambda: registry.abort(domain, actor="writer", why="", request_id=request),
        }
        after = await _until_acknowledged(moves[kind])
        kept.moves.append((domain, request, after))  # type: ignore[arg-type]


async def _key(registry: Registry, name: str) -> str:
    """A key whose making was cut off may be there: then its name is taken, which is an acknowledgement too."""
    while True:
        try:
            await registry.create_key(name, "caller")
        except RegistryUnavailable:
            await asyncio.sleep(0.005)
        except Conflict:
            return name
        else:
            return name


async def _problems(registry: Registry, kept: Acknowledged) -> list[str]:
    problems: list[str] = []
    keys = {key.name for key in await registry.list_keys()}
    problems += [f"key {name} is lost" for name in kept.keys if name not in keys]
    for domain in DOMAINS:
        versions = {version.number: version for version in await registry.list_versions(domain)}
        audit = {entry.seq: entry for entry in await registry.history(domain, 10**6)}
        deployment = await registry.deployment(domain)
        for name, number, text in kept.versions:
            if name == domain and (number not in versions or versions[number].system_prompt != text):
                problems.append(f"{domain}: acknowledged version {number} is lost")
        for name, seq, why in kept.notes:
            if name == domain and (seq not in audit or audit[seq].why != why):
                problems.append(f"{domain}: acknowledged audit entry {seq} is lost")
        moved = {entry.request_id: entry for entry in audit.values() if entry.after is not None}
        for name, request, after in kept.moves:
            if name != domain:
                continue
            known = moved[request].after if request in moved else None
            # A wish that was fulfilled already moves nothing: then its epoch is another's move.
            if known != after and after.epoch not in {e.after.epoch for e in moved.values() if e.after}:
                problems.append(f"{domain}: acknowledged move {request} is lost")
        if sorted(versions) != list(range(1, len(versions) + 1)):
            problems.append(f"{domain}: version numbers have gaps")
        if sorted(audit) != list(range(1, len(audit) + 1)):
            problems.append(f"{domain}: the audit has gaps")
        if sum(entry.kind == "version" for entry in audit.values()) != len(versions):
            problems.append(f"{domain}: versions and their audit entries disagree")
        epochs = [entry.after.epoch for entry in sorted(moved.values(), key=lambda e: e.seq) if entry.after]
        if epochs != list(range(1, len(epochs) + 1)) or len(moved) != len(epochs):
            problems.append(f"{domain}: a move was made twice, or half")
        newest = max(moved.values(), key=lambda entry: entry.seq)
        if newest.after != deployment:
            problems.append(f"{domain}: pointers and audit disagree")
        view = (await registry.snapshot()).domains[domain]
        for number in view.versions:
            if view.versions[number].system_prompt != versions[number].system_prompt:
                problems.append(f"{domain}: what gateways get of version {number} is not what it is")
    return problems


def write(report: Report, path: Path, seed: int = SEED) -> None:
    """The report as a file of evidence, with the command that makes it."""
    command = f"python -m benchmarks.registry_kill --kills {report.kills} --seed {seed}"
    about = {"command": command, "machine": {"cores": os.cpu_count(), "python": platform.python_version()}}
    path.write_text(json.dumps({**about, **asdict(report)}, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--write", type=Path, help="Also write the report here.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="msk-") as folder:
        report = asyncio.run(kill_story(Path(folder), options.kills, seed=options.seed))
    if options.write:
        write(report, options.write, options.seed)
    print(json.dumps(asdict(report), indent=2))
    raise SystemExit(1 if report.problems else 0)


if __name__ == "__main__":
    main()
