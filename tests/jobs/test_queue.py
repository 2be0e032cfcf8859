"""The queue on a single server, a Cluster and behind Sentinel, and through a server's death."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.errors import QueueUnavailable
from jobs.queue import LANES, Queue, make_broker
from registry import EmbeddedRedis, RegistryUnavailable

BINARY = shutil.which("redis-server") or shutil.which("valkey-server")
needs_server = pytest.mark.skipif(BINARY is None, reason="redis-server is not installed")
SLOTS = dict.fromkeys(LANES, 2)

Start = Callable[..., int]


def _port() -> int:
    """A free port whose cluster bus (10,000 above) is a port too."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port < 55_000:
            return port


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers on ports of their own; all are ended."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(*options: str, config: str = "") -> int:
        assert BINARY is not None
        port = _port()
        folder = tmp_path / str(port)
        folder.mkdir()
        file = folder / "redis.conf"
        file.write_text(f'port {port}\nbind 127.0.0.1\ndir {folder}\nsave ""\n{config}\n')
        running.append(subprocess.Popen([BINARY, str(file), *options], stdout=subprocess.DEVNULL))
        _answer(port)
        return port

    yield begin
    for process in running:
        process.kill()
        process.wait()


def _answer(port: int) -> None:
    for _ in range(200):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=0.1) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(64).startswith((b"+PONG", b"-")):
                    return
        except OSError:
            pass
        import time

        time.sleep(0.05)
    pytest.fail("the server did not start")


def _tell(port: int, *words: str) -> None:
    text = "".join(f"${len(w)}\r\n{w}\r\n" for w in words)
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        connection.sendall(f"*{len(words)}\r\n{text}".encode())
        assert connection.recv(64).startswith(b"+OK")


async def _carries(url: str) -> None:
    """Every lane carries what is rung, once, and stopping takes no longer than it should."""
    got: list[str] = []

    async def work(name: str) -> None:
        got.append(name)

    stop = asyncio.Event()
    async with Queue(url, "t") as queue:
        serving = asyncio.create_task(queue.serve(work, SLOTS, stop))
        for lane in LANES:
            await queue.ring(f"for-{lane}", lane)
        async with asyncio.timeout(10):
            while len(got) < len(LANES):
                await asyncio.sleep(0.05)
        stop.set()
        async with asyncio.timeout(5):
            await serving
    assert sorted(got) == sorted(f"for-{lane}" for lane in LANES)


async def test_a_single_server(redis_server: str) -> None:
    await _carries(redis_server)


@needs_server
async def test_a_cluster(start: Start) -> None:
    port = start(config="cluster-enabled yes\ncluster-require-full-coverage no")
    _tell(port, "CLUSTER", "ADDSLOTSRANGE", "0", "16383")
    await asyncio.sleep(0.5)
    await _carries(f"redis+cluster://127.0.0.1:{port}")


@needs_server
async def test_behind_sentinel(start: Start) -> None:
    master = start()
    sentinel = start("--sentinel", config=f"sentinel monitor mymaster 127.0.0.1 {master} 1")
    await _carries(f"redis+sentinel://127.0.0.1:{sentinel}/mymaster/0")


async def test_a_server_that_dies_and_comes_back(tmp_path: Path) -> None:
    try:
        server = await asyncio.to_thread(EmbeddedRedis.start, tmp_path)
    except RegistryUnavailable as error:
        pytest.skip(str(error))
    got: list[str] = []

    async def work(name: str) -> None:
        got.append(name)

    stop = asyncio.Event()
    async with Queue(server.url, "t") as queue:
        serving = asyncio.create_task(queue.serve(work, SLOTS, stop))
        await queue.ring("before", "urgent")
        await asyncio.to_thread(server.stop)
        with pytest.raises(QueueUnavailable, match="is Redis up"):
            await queue.ring("during", "urgent")
        server = await asyncio.to_thread(EmbeddedRedis.start, tmp_path)
        async with asyncio.timeout(10):
            while "after" not in got:
                await queue.ring("after", "search")
                await asyncio.sleep(0.2)
        stop.set()
        await serving
    await asyncio.to_thread(server.stop)
    assert got[0] == "before" and "during" not in got


async def test_no_more_at_one_time_than_there_are_slots(redis_server: str) -> None:
    at_once = most = 0

    async def work(_: str) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.05)
        at_once -= 1

    stop = asyncio.Event()
    async with Queue(redis_server, "slots") as queue:
        for n in range(12):
            await queue.ring(str(n), "search")
        serving = asyncio.create_task(queue.serve(work, {"urgent": 1, "search": 3, "upkeep": 1}, stop))
        await asyncio.sleep(1.0)
        stop.set()
        await serving
    assert most == 3


def test_addresses_are_those_of_the_registry() -> None:
    kinds = {
        "redis://127.0.0.1:1/0": "ListQueueBroker",
        "valkey://127.0.0.1:1": "ListQueueBroker",
        "unix:///tmp/x.sock": "ListQueueBroker",
        "rediss+sentinel://u:p%40@a:1,b:2/main/3?sentinel_password=x": "ListQueueSentinelBroker",
    }
    for url, kind in kinds.items():
        assert type(make_broker(url, "urgent")).__name__ == kind
    broker = make_broker("rediss+sentinel://u:p%40@a:1,b/main/3?sentinel_password=x", "urgent", "p")
    assert broker.master_name == "main" and broker.queue_name == "p:j:{queue-urgent}"  # type: ignore[attr-defined]
    options = broker.sentinel.connection_kwargs  # type: ignore[attr-defined]
    assert (options["username"], options["password"], options["db"], options["ssl"]) == ("u", "p@", 3, True)
