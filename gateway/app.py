"""The application of one worker: hot routes ahead of FastAPI, small answers here, the control plane behind.

FastAPI is imported, in a thread, when the control plane is asked for the first time: a worker that only carries
requests and is scraped never holds it (some 10 MB).
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from gateway.auth import bearer
from gateway.caller import AsgiCaller, Receive, ReplyHeaders, Scope, Send
from gateway.cors import allowed, preflight
from gateway.dialects import speech_at
from gateway.errors import error_body
from gateway.exchange import Dialect, Refusal
from gateway.models import Models
from gateway.refusals import METRICS_NEED_A_KEY
from gateway.worker import Worker
from registry import Settings

log = logging.getLogger("gateway")

Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

API_PATHS = ("/api", "/console", "/docs", "/openapi.json", "/v1/feedback", "/feedback", "/static")
"""Where the control plane begins."""

_encode = msgspec.json.encode


class App:
    """The ASGI application of one worker."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.models = Models(worker)
        self._api: Asgi | None = None
        self._api_task: asyncio.Task[Asgi] | None = None

    async def start(self) -> None:
        """Serve."""
        await self.worker.start()

    async def stop(self) -> None:
        """End what runs beside the requests."""
        if self._api_task is not None:
            self._api_task.cancel()
            await asyncio.gather(self._api_task, return_exceptions=True)
        await self.worker.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self._live(receive, send)
        elif kind == "http":
            await self._answer(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.start()
        except Exception as error:
            log.exception("the gateway cannot start")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        method: str = scope["method"]
        speech = speech_at(path)
        if (origins := self.worker.pipeline.house.cors) and not path.startswith(API_PATHS[:4]):
            headers = dict(scope["headers"])
            if method == "OPTIONS" and (fields := preflight(origins, headers, b"GET, POST")) is not None:
                await answer(send, 204, b"", headers=tuple(fields))
                return
            if speech is None or method != "POST":  # the pipeline adds them itself
                send = with_fields(send, allowed(origins, headers.get(b"origin")))
        if speech is not None:
            if method == "POST":
                caller = AsgiCaller(scope, receive, send)
                await caller.run(self.worker.pipeline.carry(caller, speech))
            else:
                await refuse(send, not_allowed(method, "POST"), speech.name)
        elif path in ("/healthz", "/readyz"):
            await self._health(path, method, send)
        elif path == "/metrics" and self.worker.settings.gateway.metrics:
            await self._metrics(scope, send)
        elif self.models.is_at(path):
            await self.models(scope, receive, send)
        elif path.startswith(API_PATHS):
            api = self._api or await self._loaded()
            await api(scope, receive, send)
        else:
            shown = path if len(path) <= 200 else path[:200] + "..."
            await refuse(
                send,
                Refusal(
                    404, f"Unknown request URL: {method} {shown}. Please check the URL for typos.", code="unknown_url"
                ),
                "messages" if "/messages" in path or b"anthropic-version" in dict(scope["headers"]) else "chat",
                head=method == "HEAD",
            )

    async def _health(self, path: str, method: str, send: Send) -> None:
        if method not in ("GET", "HEAD"):
            await refuse(send, not_allowed(method, "GET, HEAD"))
            return
        status: dict[str, Any] = {"status": "ok"}
        code = 200
        if path == "/readyz":
            ready, reason = self.worker.ready()
            status = {
                "status": "ok" if ready else "starting" if reason != "draining" else reason,
                "snapshot_age": self.worker.snapshot_age(),
                "registry": "up" if self.worker.registry_up else "down",
                "reason": reason,
            }
            code = 200 if ready else 503
        await answer(send, code, _encode(status), head=method == "HEAD")

    async def _metrics(self, scope: Scope, send: Send) -> None:
        method: str = scope["method"]
        if method not in ("GET", "HEAD"):
            await refuse(send, not_allowed(method, "GET, HEAD"))
            return
        worker = self.worker
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if worker.settings.gateway.metrics_key:
            token = bearer(headers.get(b"authorization"), headers.get(b"x-api-key"))
            if worker.keys.operator(token) is None:
                await refuse(send, METRICS_NEED_A_KEY, head=method == "HEAD")
                return
        text, kind = await asyncio.to_thread(worker.metrics.render, headers.get(b"accept", ""))
        await answer(send, 200, text, head=method == "HEAD", kind=kind.encode())

    async def _loaded(self) -> Asgi:
        if self._api_task is None:
            self._api_task = asyncio.create_task(self._load_api(), name="control plane")
        return await asyncio.shield(self._api_task)

    async def _load_api(self) -> Asgi:
        make = await asyncio.to_thread(_import_api)
        self._api = make(self.worker)
        settle_memory()
        return self._api


def create_app(settings: Settings, *, redis_url: str | None = None) -> App:
    """The application of one worker, for any ASGI server with a lifespan. ``metaspo gateway serve`` is faster."""
    return App(Worker(settings, redis_url=redis_url))


def _import_api() -> Callable[[Worker], Asgi]:
    from gateway.control_plane import control_plane

    return control_plane


def settle_memory() -> None:
    """Nothing that lives now will die: take it out of the collector's sight (full collections are the p99 of a busy
    worker). What is left is little, and looked at often enough that cycles of failed requests do not pile up: the
    thresholds count objects beyond those that were freed at once, and whole requests leave none."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 5, 5)


async def answer(
    send: Send,
    status: int,
    body: bytes,
    *,
    head: bool = False,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    kind: bytes = b"application/json",
) -> None:
    """One reply, JSON unless ``kind`` says otherwise; without its body for HEAD."""
    fields = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": b"" if head else body})


async def refuse(send: Send, refusal: Refusal, dialect: Dialect = "chat", *, head: bool = False) -> None:
    """One error reply in the dialect's shape."""
    await answer(send, refusal.status, error_body(dialect, refusal), head=head, headers=refusal.headers)


def with_fields(send: Send, fields: ReplyHeaders) -> Send:
    """``send``, which adds these header fields to a reply."""

    async def adding(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *fields]}
        await send(message)

    return adding if fields else send


def not_allowed(method: str, allowed: str) -> Refusal:
    """405 with ``allow``."""
    return Refusal(
        405,
        f"The method {method} is not allowed here: use {allowed}.",
        code="method_not_allowed",
        headers=((b"allow", allowed.encode()),),
    )
