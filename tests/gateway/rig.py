"""A real gateway and real upstreams on loopback, in the test's own process.

``upstream(...)`` is a raw asyncio server: a test says byte for byte what it sends, so that it can also misbehave.
``door(...)`` is the gateway as it is served in production (its own protocol under uvicorn), without a registry: the
test hands it a snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn

from gateway.app import App
from gateway.protocol import GatewayProtocol
from gateway.server import Server
from gateway.worker import Worker, bootstrap
from registry import Deployment, Domain, DomainView, ServedVersion, Settings, Snapshot

KEY = "sk-caller"
AUTH = {"authorization": f"Bearer {KEY}"}
HELLO = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


class Request:
    """What an upstream got."""

    def __init__(self, line: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.method, self.target, _ = line.decode("latin-1").split(" ", 2)
        self.headers = dict(headers)
        self.fields = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Wires:
    """One upstream's side of a connection."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer

    async def send(self, *pieces: bytes, pause: float = 0.0) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            if pause:
                await asyncio.sleep(pause)

    async def reply(self, body: bytes | dict[str, Any], status: int = 200, headers: str = "") -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = "" if "content-type" in headers.lower() else "content-type: application/json\r\n"
        head = f"HTTP/1.1 {status} X\r\n{kind}content-length: {len(raw)}\r\n{headers}\r\n"
        await self.send(head.encode("latin-1") + raw)

    async def stream(self, *events: bytes, pause: float = 0.0, end: bool = True) -> None:
        await self.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for event in events:
            await self.send(chunk(event), pause=pause)
        if end:
            await self.send(b"0\r\n\r\n")

    def cut(self) -> None:
        self.writer.transport.abort()


Behaviour = Callable[[Request, Wires], Awaitable[None]]


class Upstream:
    """A running upstream: where it is, and what it was asked."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.open = 0
        self.lost = asyncio.Event()
        """Set when a peer hangs up while its request is being answered."""
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def last(self) -> Request:
        return self.requests[-1]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def completion(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        **more,
    }


def delta(text: str, finish: str | None = None) -> bytes:
    body = {
        "id": "c",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}],
    }
    return b"data: " + json.dumps(body).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


async def echo(request: Request, wires: Wires) -> None:
    await wires.reply(completion())


@contextlib.asynccontextmanager
async def upstream(behave: Behaviour = echo, *, ssl: Any = None) -> AsyncIterator[Upstream]:
    """A server that reads whole requests and answers as ``behave`` says. Several requests may come on one
    connection."""
    state = Upstream()
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        state.connections += 1
        state.open += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                line, *rest = head[:-4].split(b"\r\n")
                fields = [(n.lower(), v.strip()) for n, _, v in (field.partition(b":") for field in rest)]
                length = int(dict(fields).get(b"content-length", b"0"))
                request = Request(line, fields, await reader.readexactly(length))
                state.requests.append(request)
                answering = asyncio.ensure_future(behave(request, Wires(writer)))
                gone = asyncio.ensure_future(_gone(reader, writer))
                await asyncio.wait((answering, gone), return_when=asyncio.FIRST_COMPLETED)
                if gone.done() and not answering.done():
                    state.lost.set()
                    answering.cancel()
                gone.cancel()
                with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                    await answering
                if writer.transport.is_closing():
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            state.open -= 1
            writer.transport.abort()
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=ssl)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _gone(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while not reader.at_eof() and reader.exception() is None:
        await asyncio.sleep(0.01)


def prompts(text: str, **more: Any) -> DomainView:
    """A domain with one version, which is stable."""
    fields: dict[str, Any] = {"name": "support", **more}
    domain = Domain(**fields)
    return DomainView(
        domain=domain,
        deployment=Deployment(domain=domain.name, epoch=1, stable=1),
        versions={1: ServedVersion(number=1, system_prompt=text, hash="sha256:x")},
    )


class Door:
    """A running gateway."""

    def __init__(self, worker: Worker, server: Server, port: int, session: aiohttp.ClientSession) -> None:
        self.worker = worker
        self.server = server
        self.port = port
        self.session = session
        self.url = f"http://127.0.0.1:{port}"

    def use(self, *domains: DomainView) -> None:
        base = bootstrap(self.worker.settings, 0.0)
        self.worker.use(
            Snapshot(epoch=1, taken_at=0.0, keys=base.keys, domains={view.domain.name: view for view in domains})
        )

    def post(self, body: Any = HELLO, path: str = "/v1/chat/completions", **headers: str) -> Any:
        """A POST with the key. ``body`` is JSON to encode, or bytes."""
        raw = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
        fields = {**AUTH, "content-type": "application/json", **{n.replace("_", "-"): v for n, v in headers.items()}}
        return self.session.post(self.url + path, data=raw, headers=fields)

    async def ask(self, body: Any = HELLO, path: str = "/v1/chat/completions", **headers: str) -> tuple[int, Any, Any]:
        """Status, headers and the decoded reply of a POST."""
        async with self.post(body, path, **headers) as reply:
            raw = await reply.read()
            kind = reply.headers.get("content-type", "")
            return reply.status, reply.headers, json.loads(raw) if "json" in kind else raw

    async def raw(self, data: bytes, *, patience: float = 5.0) -> bytes:
        """Everything that comes back for these bytes until the gateway closes or is quiet."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        got = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            while piece := await asyncio.wait_for(reader.read(65536), patience if not got else 0.3):
                got += piece
        writer.transport.abort()
        return got


class RigServer(Server):
    """Without signals: they belong to the test runner."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class RigApp(App):
    """The control plane is loaded when it is asked for."""

    async def start(self) -> None:
        await self.worker.start()


def settings_for(home: Path, *upstreams: Any, **more: Any) -> Settings:
    fields: dict[str, Any] = {
        "home": home,
        "upstreams": [
            up if isinstance(up, dict) else {"name": f"up{n}", "base_url": up.url, "api_key": "sk-upstream"}
            for n, up in enumerate(upstreams)
        ],
        "keys": [{"name": "app", "role": "caller", "key": KEY}, {"name": "ops", "role": "operator", "key": "sk-ops"}],
        **more,
    }
    return Settings(**fields)


@contextlib.asynccontextmanager
async def door(settings: Settings, *domains: DomainView, asgi: bool = False) -> AsyncIterator[Door]:
    """The gateway, serving ``domains``; ``asgi``: under uvicorn's own protocol, as under any ASGI server."""
    worker = Worker(settings)
    app = RigApp(worker)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http="httptools" if asgi else type("Protocol", (GatewayProtocol,), {"worker": worker}),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    server = RigServer(config, worker, None)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.005)
        if serving.done():
            serving.result()
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        running = Door(worker, server, listener.getsockname()[1], session)
        if domains:
            running.use(*domains)
        try:
            yield running
        finally:
            server.should_exit = True
    await serving
