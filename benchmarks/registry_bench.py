"""How fast the registry is, and how much memory it needs. Prints JSON; ``docs/registry.md`` shows a run.

    python -m benchmarks.registry_bench                  # everything, backup scaled to 100 MB
    python -m benchmarks.registry_bench --only fanout snapshot
    python -m benchmarks.registry_bench --write docs/results/registry.json
    python -m benchmarks.registry_bench --only backup --backup-mb 1024 --sample-kb 8

Everything runs on the embedded server (append-only file synced before each answer); figures are of this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
from msgspec.structs import replace

from registry import (
    Conflict,
    Domain,
    EmbeddedRedis,
    Lineage,
    Message,
    Outcome,
    Registry,
    RetentionSettings,
    Sample,
    Signer,
    Snapshot,
    SnapshotWatcher,
    content_hash,
    watch,
)
from registry.records import Deployment, ServedVersion
from registry.store import encode

SIGNER = Signer.create(bytes(32))
PROMPT = "You are a careful assistant. Answer in the customer's language, and say so when you do not know. " * 10
"""About 1 KB, as long as prompts in production are."""


def _percentiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "median_ms": round(statistics.median(ordered) * 1000, 2),
        "p99_ms": round(ordered[int(len(ordered) * 0.99)] * 1000, 2),
        "max_ms": round(ordered[-1] * 1000, 2),
        "n": len(ordered),
    }


async def _seed(registry: Registry, count: int) -> None:
    """Many domains with one stable version, written past the API: only reading is measured."""
    redis, keys = registry.connection, registry.connection.keys
    for start in range(0, count, 500):
        commands: list[tuple[Any, ...]] = []
        for number in range(start, min(start + 500, count)):
            name = f"d{number}"
            text = f"{PROMPT}{number}"
            digest = content_hash(text)
            version = ServedVersion(number=1, system_prompt=text, hash=digest, signature=SIGNER.sign(name, 1, digest))
            commands += [
                ("SADD", keys.domains, name),
                (
                    *("HSET", keys.live(name), "domain", encode(Domain(name=name)), "epoch", 1),
                    *("deployment", encode(Deployment(domain=name, epoch=1, stable=1)), "v:1", encode(version)),
                ),
            ]
        await redis.many(commands)
    await redis.command("INCR", keys.epoch)


# --- fan-out ---------------------------------------------------------------------------------------------------------


def _worker(url: str, prefix: str, ready: Any, results: Any, moves: int, deaf: bool) -> None:
    """One gateway worker: a process with a watcher; reports when it saw each epoch. ``deaf``: no push reaches it."""

    async def never(_: SnapshotWatcher) -> None:
        await asyncio.Event().wait()

    async def follow() -> None:
        if deaf:
            SnapshotWatcher._listen = never  # type: ignore[method-assign]
        seen: dict[int, float] = {}

        def on_snapshot(snapshot: Snapshot) -> None:
            seen.setdefault(snapshot.domains["d0"].deployment.epoch, time.monotonic())

        watcher = watch(url, None, SIGNER.public, on_snapshot, prefix=prefix)
        await watcher.start(60)
        ready.release()
        while max(seen) < moves:
            await asyncio.sleep(0.05)
        await watcher.stop()
        results.put(seen)

    asyncio.run(follow())


def _burn() -> None:
    """A process that takes all the CPU it gets."""
    while True:
        pass


async def fanout(registry: Registry, prefix: str, per_core: int = 2) -> dict[str, Any]:
    """A move's way from the operator's call to the copy of each of eight worker processes, in four weathers.

    ``per_core``: busy loops on each core in the third.
    """
    return {
        "quiet": await _fanout(registry, prefix),
        "push lost": await _fanout(registry, prefix, deaf=True),
        f"{per_core} busy loops per core": await _fanout(registry, prefix, busy=per_core * (os.cpu_count() or 1)),
        "10,000 domains": await _fanout(registry, prefix, domains=10_000),
    }


async def _fanout(
    registry: Registry,
    prefix: str,
    *,
    moves: int = 200,
    workers: int = 8,
    busy: int = 0,
    deaf: bool = False,
    domains: int = 1,
) -> dict[str, Any]:
    if domains > 1:
        await _seed(registry, domains)
    await registry.put_domain(Domain(name="d0", parent=None), actor="bench")
    for number in (1, 2):
        await registry.add_version("d0", f"{PROMPT}{number}", lineage=Lineage(author="bench"))
    first = await registry.promote("d0", 1, actor="bench", why="")
    context = multiprocessing.get_context("spawn")
    ready, results = context.Semaphore(0), context.Queue()
    last = first.epoch + moves
    processes = [
        context.Process(target=_worker, args=(registry.connection.url, prefix, ready, results, last, deaf), daemon=True)
        for _ in range(workers)
    ]
    burners = [context.Process(target=_burn, daemon=True) for _ in range(busy)]
    for process in processes:
        process.start()
    for _ in processes:
        await asyncio.to_thread(ready.acquire)
    for burner in burners:
        burner.start()
    await asyncio.sleep(1.0)
    asked: dict[int, float] = {}
    for number in range(moves):
        began = time.monotonic()
        moved = await registry.promote("d0", 1 + (number + 1) % 2, actor="bench", why="")
        asked[moved.epoch] = began
        await asyncio.sleep(random.uniform(0.01, 0.05))
    reports = [await asyncio.to_thread(results.get, True, 60) for _ in processes]
    for burner in burners:
        burner.terminate()
    for process in (*processes, *burners):
        process.join(10)
    # A worker may see only the later of two moves that came close together: that one counts for both.
    delays = []
    for seen in reports:
        for epoch, began in asked.items():
            delays.append(min(at for later, at in seen.items() if later >= epoch) - began)
    return {"workers": workers, "moves": moves, "busy_loops": busy, "domains": domains, **_percentiles(delays)}


# --- snapshot --------------------------------------------------------------------------------------------------------


def _load(url: str, prefix: str, cache: str | None, results: Any) -> None:
    async def load() -> None:
        import registry.watcher  # noqa: F401 (what is imported is not what is measured)

        watcher = watch(url, Path(cache) if cache else None, SIGNER.public, lambda _: None, prefix=prefix)
        gc.collect()
        before = psutil.Process().memory_info().rss
        began, worked = time.perf_counter(), time.process_time()
        await watcher.start(60)
        seconds, cpu = time.perf_counter() - began, time.process_time() - worked
        gc.collect()
        after = psutil.Process().memory_info().rss
        count = len(watcher.current.domains) if watcher.current else 0
        if cache:
            for _ in range(200):
                if Path(cache).exists():
                    break
                await asyncio.sleep(0.05)
        await watcher.stop()
        results.put((count, seconds, (after - before) / 2**20, after / 2**20, cpu))

    asyncio.run(load())


def _load_file(cache: str, results: Any) -> None:
    from registry.signing import Verifier
    from registry.snapshot_file import read_snapshot

    verifier = Verifier(SIGNER.public)
    began, worked = time.perf_counter(), time.process_time()
    found = read_snapshot(Path(cache), verifier, lambda *_: None)
    cpu = time.process_time() - worked
    results.put((len(found.domains) if found else 0, time.perf_counter() - began, cpu))


async def snapshot(registry: Registry, prefix: str, home: Path) -> dict[str, Any]:
    """A gateway's first load, from Redis and from the file, every signature checked, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    rows: dict[str, Any] = {}
    for count in (10, 1_000, 10_000):
        await _seed(registry, count)
        cache = str(home / f"snapshot-{count}")
        best: tuple[Any, ...] | None = None
        for cached in (None, None, cache):
            results = context.Queue()
            process = context.Process(
                target=_load, args=(registry.connection.url, prefix, cached, results), daemon=True
            )
            process.start()
            found = await asyncio.to_thread(results.get, True, 120)
            process.join()
            assert found[0] == count, found
            if cached is None and (best is None or found[1] < best[1]):
                best = found
        assert best is not None
        results = context.Queue()
        process = context.Process(target=_load_file, args=(cache, results), daemon=True)
        process.start()
        from_file = await asyncio.to_thread(results.get, True, 120)
        process.join()
        assert from_file[0] == count, from_file
        rows[f"{count} domains"] = {
            "load_seconds": round(best[1], 3),
            "load_cpu_seconds": round(best[4], 3),
            "memory_mb": round(best[2], 1),
            "process_mb": round(best[3], 1),
            "file_mb": round(Path(cache).stat().st_size / 2**20, 1),
            "load_file_seconds": round(from_file[1], 3),
            "load_file_cpu_seconds": round(from_file[2], 3),
        }
    return rows


# --- writing ---------------------------------------------------------------------------------------------------------


def _samples(count: int, start: int = 0) -> list[Sample]:
    now = time.time()
    question = "My parcel was to come on Monday and has not come yet, what can I do? " * 4
    return [
        Sample(
            id=f"s{start + i}",
            domain="d0",
            task=f"t{i % 3}",
            at=now,
            key="k1",
            unit=f"u{(start + i) % 500}",
            arm="stable",
            version=1,
            model="gpt-4o-mini",
            messages=(Message(role="user", content=question),),
            answer=question,
            prompt_tokens=300,
            answer_tokens=80,
        )
        for i in range(count)
    ]


def _outcomes(count: int, start: int = 0) -> list[Outcome]:
    now = time.time()
    return [
        Outcome(
            domain="d0",
            arm="stable",
            version=1,
            unit=f"u{(start + i) % 500}",
            at=now,
            latency=0.4,
            exchange=f"s{start + i}",
        )
        for i in range(count)
    ]


async def ingest(registry: Registry, seconds: float = 5.0, batch: int = 200) -> dict[str, Any]:
    """The recorder's path: batches of samples and outcomes, one after the other."""
    await registry.put_domain(Domain(name="d0", parent=None), actor="bench")
    count = 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        await registry.record(_samples(batch, count), _outcomes(batch, count))
        count += batch
    both = count / (time.perf_counter() - began)
    count = 10**9
    began = time.perf_counter()
    while time.perf_counter() - began < seconds / 2:
        await registry.record([], _outcomes(batch, count))
        count += batch
    alone = (count - 10**9) / (time.perf_counter() - began)
    return {"batch": batch, "samples_and_outcomes_per_second": round(both), "outcomes_alone_per_second": round(alone)}


async def moves(registry: Registry, seconds: float = 4.0) -> dict[str, Any]:
    """Pointer moves: one mover, and eight who contend for one domain (those who lose a race try again)."""
    await registry.put_domain(Domain(name="d1", parent=None), actor="bench")
    for number in range(1, 10):
        await registry.add_version("d1", f"{PROMPT}{number}", lineage=Lineage(author="bench"))
    counts: dict[str, Any] = {}
    for movers in (1, 8):
        won, lost = [0], [0]
        until = time.perf_counter() + seconds
        others = [
            await Registry.connect(registry.connection.url, prefix=registry.connection.keys.prefix)
            for _ in range(movers)
        ]

        async def move(
            who: Registry, first: int, won: list[int] = won, lost: list[int] = lost, until: float = until
        ) -> None:
            number = first
            while time.perf_counter() < until:
                number = number % 9 + 1
                try:
                    await who.promote("d1", number, actor="bench", why="")
                    won[0] += 1
                except Conflict:
                    lost[0] += 1

        await asyncio.gather(*(move(who, place) for place, who in enumerate(others)))
        for who in others:
            await who.close()
        counts[f"{movers} movers"] = {
            "moves_per_second": round(won[0] / seconds),
            "conflicts_per_second": round(lost[0] / seconds),
        }
    return counts


async def history(registry: Registry, count: int = 10_000) -> dict[str, Any]:
    """Reading an audit of ten thousand moves."""
    await registry.put_domain(Domain(name="d2", parent=None), actor="bench")
    for number in (1, 2):
        await registry.add_version("d2", f"{PROMPT}{number}", lineage=Lineage(author="bench"))
    began = time.perf_counter()
    for number in range(count):
        await registry.promote("d2", 1 + number % 2, actor="bench", why="bench")
    made = time.perf_counter() - began
    first, last = (await registry.history("d2", 1))[0].at, time.time()

    async def timed(wish: Callable[[], Awaitable[Any]], times: int = 30) -> float:
        taken = []
        for _ in range(times):
            began = time.perf_counter()
            await wish()
            taken.append(time.perf_counter() - began)
        return round(statistics.median(taken) * 1000, 2)

    middle = first - made / 2
    return {
        "moves": count,
        "made_in_seconds": round(made, 1),
        "newest_100_ms": await timed(lambda: registry.history("d2", 100)),
        "100_from_the_middle_ms": await timed(lambda: registry.history("d2", 100, before=count // 2)),
        "all_ms": await timed(lambda: registry.history("d2", count + 10), 3),
        "served_at_ms": await timed(lambda: registry.served_at("d2", middle)),
        "seconds_since": round(last - first, 1),
    }


# --- size ------------------------------------------------------------------------------------------------------------


async def memory(registry: Registry) -> dict[str, Any]:
    """Bytes that Redis needs for each kept sample, version, domain, move and unit."""
    redis = registry.connection

    async def used() -> int:
        return int((await redis.command("INFO", "memory"))["used_memory"])

    per: dict[str, Any] = {}

    async def measure(name: str, count: int, wish: Callable[[], Awaitable[Any]]) -> None:
        before = await used()
        await wish()
        per[name] = round((await used() - before) / count)

    async def domains() -> None:
        for number in range(500):
            await registry.put_domain(Domain(name=f"m{number}", parent=None), actor="bench")

    async def versions() -> None:
        for number in range(500):
            await registry.add_version("m0", f"{PROMPT}{number}", lineage=Lineage(author="bench"))

    async def promotions() -> None:
        for number in range(1000):
            await registry.promote("m0", 1 + number % 9, actor="bench", why="a reason of a few words")

    async def keep() -> None:
        for start in range(0, 2000, 200):
            await registry.record_samples(_samples(200, 10**7 + start))

    async def count_units() -> None:
        now = time.time()
        for start in range(0, 2000, 200):
            await registry.record(
                [],
                [Outcome(domain="m0", arm="stable", version=1, unit=f"unit-{start + i}", at=now) for i in range(200)],
            )

    await measure("domain", 500, domains)
    await measure("version of 1 KB, with its audit entry", 500, versions)
    await measure("move, with its audit entry and request id", 1000, promotions)
    await measure("sample of 0.7 KB", 2000, keep)
    await measure("outcome, with its unit's sums", 2000, count_units)
    return {"bytes_per": per}


def _conversations(kilobytes: float) -> Callable[[int, int], list[Sample]]:
    """Makes samples of that size, each with text of its own: words, so that they compress as text does."""
    chance = random.Random(20261120)
    letters = "etaoinshrdlucmfwypvbgkqjxz"
    words = ["".join(chance.choices(letters, range(26, 0, -1), k=chance.randint(2, 9))) for _ in range(20_000)]
    pool = " ".join(chance.choices(words, k=700_000))
    length = max(10, int((kilobytes * 1024 - 200) / 2))

    def make(count: int, start: int) -> list[Sample]:
        def text() -> str:
            place = chance.randrange(len(pool) - length)
            return pool[place : place + length]

        return [
            replace(sample, messages=(Message(role="user", content=text()),), answer=text())
            for sample in _samples(count, start)
        ]

    return make


async def backup(registry: Registry, home: Path, megabytes: int, kilobytes: float) -> dict[str, Any]:
    """A backup of that many megabytes of samples of that size, while the registry goes on answering."""
    await registry.put_domain(Domain(name="d0", parent=None), actor="bench")
    make = _conversations(kilobytes)
    size = sum(len(encode(sample)) for sample in make(100, 0)) / 100
    count = int(megabytes * 2**20 / size)
    for start in range(0, count, 200):
        await registry.record_samples(make(min(200, count - start), 10**8 + start))
    worst = [0.0]
    stop = asyncio.Event()

    async def ask() -> None:
        while not stop.is_set():
            began = time.perf_counter()
            await other.ping()
            worst[0] = max(worst[0], time.perf_counter() - began)
            await asyncio.sleep(0.01)

    other = await Registry.connect(registry.connection.url, prefix=registry.connection.keys.prefix)
    asker = asyncio.create_task(ask())
    began = time.perf_counter()
    keys = await registry.backup(home / "backup")
    took, peak = time.perf_counter() - began, psutil.Process().memory_info().rss / 2**20
    stop.set()
    await asker
    target = await Registry.connect(registry.connection.url, prefix="restored")
    began = time.perf_counter()
    await target.restore(home / "backup")
    back = time.perf_counter() - began
    await target.close()
    await other.close()
    return {
        "data_mb": megabytes,
        "sample_kb": round(size / 1024, 2),
        "keys": keys,
        "file_mb": round((home / "backup").stat().st_size / 2**20, 1),
        "backup_seconds": round(took, 1),
        "restore_seconds": round(back, 1),
        "process_mb": round(peak),
        "longest_ping_meanwhile_ms": round(worst[0] * 1000, 1),
    }


# --- all -------------------------------------------------------------------------------------------------------------

PARTS = ("fanout", "snapshot", "ingest", "moves", "history", "memory", "backup")


async def one(part: str, home: Path, url: str, backup_mb: int, sample_kb: float, per_core: int) -> dict[str, Any]:
    """One part on a fresh server."""
    many = RetentionSettings(samples_per_task=10**7) if part == "backup" else None
    registry = await Registry.connect(url, signer=SIGNER, prefix=part, retention=many)
    story: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
        "fanout": lambda: fanout(registry, part, per_core),
        "snapshot": lambda: snapshot(registry, part, home),
        "ingest": lambda: ingest(registry),
        "moves": lambda: moves(registry),
        "history": lambda: history(registry),
        "memory": lambda: memory(registry),
        "backup": lambda: backup(registry, home, backup_mb, sample_kb),
    }
    try:
        return await story[part]()
    finally:
        await registry.close()


async def run(parts: list[str], backup_mb: int, sample_kb: float, per_core: int) -> dict[str, Any]:
    """All parts, one after the other."""
    about = {"cores": os.cpu_count(), "python": platform.python_version()}
    found: dict[str, Any] = {"machine": about}
    for part in parts:
        with tempfile.TemporaryDirectory(prefix="msb-") as folder, EmbeddedRedis.start(Path(folder)) as server:
            load = round(os.getloadavg()[0], 1)
            found[part] = {
                **await one(part, Path(folder), server.url, backup_mb, sample_kb, per_core),
                "load_average": load,
            }
        print(f"{part}: {json.dumps(found[part])}", file=sys.stderr, flush=True)
    return found


def write(found: dict[str, Any], path: Path) -> None:
    """Into a file of evidence: each part with the load of the machine when it was measured."""
    known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    command = {"command": " ".join(["python -m benchmarks.registry_bench", *sys.argv[1:]])}
    path.write_text(json.dumps({**known, **command, **found}, indent=2) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--backup-mb", type=int, default=100)
    parser.add_argument("--sample-kb", type=float, default=0.7)
    parser.add_argument("--busy-per-core", type=int, default=2)
    parser.add_argument("--write", type=Path, help="Put what was measured into this file, beside what else it holds.")
    options = parser.parse_args()
    found = asyncio.run(run(options.only, options.backup_mb, options.sample_kb, options.busy_per_core))
    if options.write:
        write(found, options.write)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
