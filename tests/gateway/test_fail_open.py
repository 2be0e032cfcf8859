"""D46: a registry that is slow, a disk that is full, a store that is damaged never change a reply, and never delay
it."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from rig import HELLO, door, settings_for, upstream

from registry import EmbeddedRedis, Lineage, Registry, RegistryError, Settings

STALL = 30.0
"""Seconds for which the registry says nothing: longer than any test waits."""
PROMPT = "Remember."


class Proxy:
    """Stands in front of a Redis. ``stalled``: bytes are taken, and answers are held back."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.port = 0
        self.stalled = False
        self.tasks: set[asyncio.Task[None]] = set()
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to = await asyncio.open_unix_connection(self.path)
        self.writers += (writer, to)
        for task in (asyncio.create_task(self._pass(reader, to)), asyncio.create_task(self._pass(there, writer))):
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                began = time.monotonic()
                while self.stalled and time.monotonic() - began < STALL:
                    await asyncio.sleep(0.01)
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


@contextlib.asynccontextmanager
async def proxied(url: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(urlsplit(url).path)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        proxy.stalled = False
        server.close()
        for task in list(proxy.tasks):
            task.cancel()
        await asyncio.gather(*proxy.tasks, return_exceptions=True)
        for writer in proxy.writers:
            writer.transport.abort()
        await asyncio.sleep(0)


@pytest.fixture
def redis(tmp_path: Path) -> Any:
    try:
        running = EmbeddedRedis.start(tmp_path / "redis")
    except RegistryError as error:
        pytest.skip(str(error))
    yield running
    running.stop()


def followed(home: Path, up: Any, redis_url: str) -> Settings:
    return settings_for(home, up, redis_url=redis_url, domains={"global": {"system_prompt": PROMPT}})


async def served(gate: Any, version: str, seconds: float = 10.0) -> None:
    """Wait until this version is served."""
    end = time.monotonic() + seconds
    while (await gate.ask())[1].get("x-metaspo-version") != version:
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


async def scraped(gate: Any) -> str:
    async with gate.session.get(gate.url + "/metrics") as got:
        return str(await got.text())


async def test_d46_a_registry_that_is_slow_delays_nothing(tmp_path: Path, redis: EmbeddedRedis) -> None:
    async with upstream() as up, proxied(redis.url) as proxy:
        settings = followed(tmp_path / "home", up, f"redis://127.0.0.1:{proxy.port}/0")
        async with door(settings) as gate:
            await served(gate, "1")
            proxy.stalled = True
            began = time.monotonic()
            for _ in range(200):
                status, headers, _ = await gate.ask({**HELLO, "user": "ann"})
                assert (status, headers["x-metaspo-version"], headers["x-metaspo-arm"]) == (200, "1", "stable")
                assert up.last.json["messages"][0] == {"role": "system", "content": PROMPT}
            assert time.monotonic() - began < STALL / 2  # one that waited for the registry would have taken all of it
            end = time.monotonic() + 10
            while gate.worker.registry_up:  # it is said, in a metric and in the readiness
                assert time.monotonic() < end
                await asyncio.sleep(0.05)
            assert "metaspo_registry_up 0" in await scraped(gate)
            proxy.stalled = False


async def test_d46_a_full_disk_changes_nothing(tmp_path: Path, redis: EmbeddedRedis) -> None:
    """The snapshot file cannot be written (the kernel refuses files beyond a size, as it does on a full disk): what is
    served comes from memory, moves included."""
    home = tmp_path / "home"
    full = 65_536
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (full, before[1]))
    try:
        async with upstream() as up, door(followed(home, up, redis.url)) as gate:
            await served(gate, "1")
            registry = await Registry.connect(redis.url)
            text = "Forget. " * 20_000
            version = await registry.add_version("global", text, lineage=Lineage(author="ann"))
            await registry.promote("global", version.number, actor="ann", why="a test")
            await registry.close()
            await served(gate, "2")
            assert up.last.json["messages"][0] == {"role": "system", "content": text}
            with pytest.raises(OSError, match="large"):
                (tmp_path / "probe").write_text(text)
            end = time.monotonic() + 10
            while "metaspo_snapshot_refused_total 0" in await scraped(gate):  # it was tried, and is counted
                assert time.monotonic() < end
                await asyncio.sleep(0.05)
            assert "Forget" not in (home / "snapshot.json").read_text()  # still the last one that fitted
            assert (await gate.ask())[1]["x-metaspo-version"] == "2"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_d46_a_damaged_registry_changes_nothing(tmp_path: Path, redis: EmbeddedRedis) -> None:
    """Every record of domains, versions, deployments and keys is overwritten with noise: the last known good serves,
    and it is counted."""
    async with upstream() as up, door(followed(tmp_path / "home", up, redis.url)) as gate:
        await served(gate, "1")
        registry = await Registry.connect(redis.url)
        client = registry._redis
        for name in await client.command("KEYS", "*"):
            kind = (await client.command("TYPE", name)).decode()
            if kind == "string" and b"epoch" not in name:
                await client.command("SET", name, b"\xff\x00 not a record")
            elif kind == "hash":
                for field in await client.command("HKEYS", name):
                    await client.command("HSET", name, field, b"\xff\x00 not a record")
        await registry.close()
        await asyncio.sleep(1.5)  # longer than a snapshot's way
        for _ in range(20):
            status, headers, _ = await gate.ask()
            assert (status, headers["x-metaspo-version"], headers["x-metaspo-arm"]) == (200, "1", "stable")
            assert up.last.json["messages"][0] == {"role": "system", "content": PROMPT}


async def test_d46_a_damaged_snapshot_file_is_no_reason_not_to_start(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "snapshot.json").write_bytes(b'{"epoch": 7, "domains": {\xff')
    (home / "exchange-id.secret").write_text("not hexadecimal")
    async with upstream() as up, door(followed(home, up, "unix:///nonexistent/redis.sock")) as gate:
        status, headers, _ = await gate.ask()
        assert (status, headers["x-metaspo-arm"]) == (200, "none")
        assert up.last.json == HELLO
