"""Moving house: the file is whole or refused, restores on any server, and is taken from a live registry."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from registry import Corrupt, Dataset, EmbeddedRedis, Feedback, Refused, Registry, RegistryError, Signer, verify, watch
from registry.backup import read_frames
from registry.migrations import migrate, stored_schema
from registry.versions import served
from tests.registry.conftest import NOW, Clock, Connect, domain_with_versions
from tests.registry.test_samples import outcome, sample


async def fill(registry: Registry) -> None:
    await domain_with_versions(registry)
    await domain_with_versions(registry, "other", 2)
    await registry.canary("support", 2, 0.1, actor="a", why="")
    await registry.create_key("app", "caller")
    await registry.record([sample(i) for i in range(20)], [outcome(i) for i in range(20)])
    await registry.add_feedback(Feedback(exchange="x1", domain="support", key="k1", unit="u1", at=NOW, score=1.0))
    await registry.put_dataset(Dataset(hash="", domain="support", task="t", created_at=NOW))
    run = await registry.create_run("support")
    await registry.append_run_event(run.id, {"n": 1})
    await registry.acquire("job", "me", 60)


async def facts(registry: Registry) -> dict[str, object]:
    """Everything that a backup must bring back."""
    runs = await registry.list_runs()
    return {
        "domains": await registry.list_domains(),
        "deployments": [await registry.deployment(name) for name in ("support", "other")],
        "versions": [await registry.list_versions(name) for name in ("support", "other")],
        "audit": [await registry.history(name) for name in ("support", "other")],
        "fleet": await registry.fleet_history(),
        "keys": await registry.list_keys(),
        "samples": sorted(await registry.samples("support"), key=lambda s: s.id),
        "outcomes": await registry.outcomes("support"),
        "totals": await registry.outcome_totals("support"),
        "units": sorted(repr(t) for t in await registry.unit_scores("support")),
        "datasets": await registry.list_datasets("support"),
        "runs": runs,
        "events": await registry.run_events(runs[0].id),
        "served": await registry.served_at("support", NOW),
        "secret": await registry.secret("exchange"),
    }


async def test_everything_comes_back_on_another_kind_of_server(
    url: str, debian_url: str, embedded: EmbeddedRedis, connect: Connect, tmp_path: Path, signer: Signer
) -> None:
    source = await connect(url)
    await fill(source)
    before = await facts(source)
    count = await source.backup(tmp_path / "b")
    assert count > 60 and (tmp_path / "b").stat().st_mode & 0o077 == 0
    target_url = embedded.url if url == debian_url else debian_url
    target = await connect(target_url, prefix=f"{source.connection.keys.prefix}moved")
    assert await target.restore(tmp_path / "b") == count
    assert await facts(target) == before
    assert verify(signer.public, served(await target.get_version("support", 1)), "support")
    ttl = await target.connection.command("TTL", target.connection.keys.sample("support", "x1"))
    assert ttl > 0
    # What was true only for a moment stays behind.
    assert await target.lease_holder("job") is None
    # And life goes on.
    await target.promote("support", 2, actor="a", why="")
    assert (
        await target.add_version("support", "New.", lineage=(await target.get_version("support", 1)).lineage)
    ).number == 4


async def test_a_restore_never_mixes_and_gateways_follow_it(
    plain: Registry, connect: Connect, tmp_path: Path, signer: Signer, clock: Clock
) -> None:
    await fill(plain)
    await plain.backup(tmp_path / "b")
    await plain.promote("support", 3, actor="a", why="later")
    await plain.put_domain((await plain.get_domain("other")).__class__(name="newer", parent=None), actor="a")
    with pytest.raises(Refused, match="already"):
        await plain.restore(tmp_path / "b")
    seen: list[object] = []
    watcher = watch(
        plain.connection.url, None, signer.public, seen.append, prefix=plain.connection.keys.prefix, clock=clock
    )
    await watcher.start()
    await plain.restore(tmp_path / "b", overwrite=True)
    for _ in range(400):
        if watcher.current and set(watcher.current.domains) == {"support", "other"}:
            break
        await asyncio.sleep(0.01)
    assert watcher.current and set(watcher.current.domains) == {"support", "other"}
    assert watcher.current.domains["support"].deployment.stable == 1
    await watcher.stop()


async def test_a_restore_under_traffic_is_whole(registry: Registry, connect: Connect, tmp_path: Path) -> None:
    """Gateways go on recording while everything is replaced: nothing of the file is lost to what they write."""
    await fill(registry)
    await registry.record([], [outcome(i, unit=f"many{i}") for i in range(3000)])
    empty = f"{registry.connection.keys.prefix}:t:{{support}}:emptied"
    await registry.connection.command("XADD", empty, "1-0", "o", "x")
    await registry.connection.command("XDEL", empty, "1-0")
    before = await facts(registry)
    await registry.backup(tmp_path / "b")
    stop = asyncio.Event()

    async def record(start: int) -> None:
        recorder = await connect(registry.connection.url)
        for number in itertools.count(start, 10):
            if stop.is_set():
                return
            await recorder.record([sample(number + i) for i in range(10)], [outcome(number + i) for i in range(10)])

    recorders = [asyncio.create_task(record(start)) for start in (10**6, 2 * 10**6)]
    await asyncio.sleep(0.1)
    await registry.restore(tmp_path / "b", overwrite=True)
    stop.set()
    await asyncio.gather(*recorders)
    after = await facts(registry)
    for name in ("domains", "deployments", "versions", "audit", "keys", "runs", "events"):
        assert after[name] == before[name], name
    kept = {s.id for s in await registry.samples("support")}
    assert {s.id for s in before["samples"]} <= kept  # type: ignore[attr-defined]
    assert not await registry.connection.scan(f"{registry.connection.keys.prefix}:*restoring")


async def test_a_damaged_file_is_refused_before_anything_is_written(
    plain: Registry, connect: Connect, tmp_path: Path
) -> None:
    await fill(plain)
    path = tmp_path / "b"
    await plain.backup(path)
    whole = path.read_bytes()
    target = await connect(plain.connection.url, prefix=f"{plain.connection.keys.prefix}x")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x40
    for damaged in (whole[:-1], whole[: len(whole) // 2], bytes(flipped), b"", b"not a backup at all"):
        path.write_bytes(damaged)
        with pytest.raises(Corrupt, match=r"damaged|truncated|not a backup"):
            await target.restore(path)
    with pytest.raises(RegistryError, match="no file"):
        await target.restore(tmp_path / "nope")
    assert await target.domain_names() == []
    with pytest.raises(RegistryError, match="cannot be written"):
        await plain.backup(tmp_path / "no" / "such" / "folder")


async def test_a_backup_of_a_live_registry_is_consistent(registry: Registry, connect: Connect, tmp_path: Path) -> None:
    """While versions are added and promoted: pointers, versions and audit of the file agree."""
    await domain_with_versions(registry)
    stop = asyncio.Event()

    async def write(domain: str) -> None:
        await domain_with_versions(registry, domain, 1)
        for number in itertools.count(2):
            if stop.is_set():
                return
            version = await registry.add_version(
                domain, f"Text {number}", lineage=(await registry.get_version(domain, 1)).lineage
            )
            await registry.promote(domain, version.number, actor="a", why="")

    writers = [asyncio.create_task(write(name)) for name in ("a", "b")]
    await asyncio.sleep(0.2)
    await registry.backup(tmp_path / "b")
    stop.set()
    await asyncio.gather(*writers)
    target = await connect(registry.connection.url, prefix=f"{registry.connection.keys.prefix}x")
    await target.restore(tmp_path / "b")
    for name in ("a", "b"):
        deployment = await target.deployment(name)
        versions = await target.list_versions(name)
        audit = await target.history(name, 10_000)
        assert [version.number for version in versions] == list(range(1, len(versions) + 1))
        assert deployment.stable is not None and deployment.stable <= len(versions)
        assert [entry.seq for entry in audit] == list(range(len(audit), 0, -1))
        assert next(entry for entry in audit if entry.after).after == deployment
        assert sum(entry.kind == "version" for entry in audit) == len(versions)


async def test_what_has_expired_since_is_left_out(
    plain: Registry, connect: Connect, tmp_path: Path, clock: Clock
) -> None:
    await fill(plain)
    await plain.backup(tmp_path / "b")
    clock.tick(31 * 86_400)
    target = await connect(plain.connection.url, prefix=f"{plain.connection.keys.prefix}x")
    await target.restore(tmp_path / "b")
    assert await target.samples("support") == []
    assert len(await target.list_versions("support")) == 3


async def test_a_newer_schema_is_refused_and_migrations_run_in_order(plain: Registry, connect: Connect) -> None:
    redis = plain.connection
    ran: list[int] = []

    async def step(number: int) -> None:
        ran.append(number)

    steps = tuple((n, lambda _, n=n: step(n)) for n in (1, 2, 3))
    assert await stored_schema(redis) == 1
    assert await migrate(redis, steps) == 3 and ran == [2, 3]
    assert await migrate(redis, steps) == 3 and ran == [2, 3]
    with pytest.raises(Refused, match="schema 3, this program knows up to 1"):
        await connect(redis.url)
    await redis.command("SET", redis.keys.schema, "soup")
    with pytest.raises(Corrupt, match="something else wrote it"):
        await plain.migrate()


def test_frames_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(RegistryError):
        list(read_frames(tmp_path))
