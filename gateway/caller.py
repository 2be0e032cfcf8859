"""The caller's side of one exchange: what was asked, and where the reply goes.

Two implementations carry the same pipeline: :class:`AsgiCaller` under any ASGI server, and ``gateway.protocol``'s
own under ours, without ASGI's messages in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from gateway.body import too_large
from gateway.errors import CallerGone
from gateway.head import Head

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

ReplyHeaders = list[tuple[bytes, bytes]]


class Caller(Protocol):
    """What the pipeline needs of a connection."""

    head: Head
    started: bool
    """Whether the head of a reply has been sent."""
    gone: bool
    """Whether the caller has hung up."""

    def arrived(self, limit: int) -> bytes | None:
        """The whole request body when nothing of it must be waited for, and nothing is wrong with it."""

    async def body(self, limit: int) -> bytes:
        """The whole request body as sent. Raises RequestRefused (413) above ``limit`` bytes, CallerGone."""

    def whole(self, status: int, headers: ReplyHeaders, body: bytes) -> Awaitable[None]:
        """A complete reply."""

    def start(self, status: int, headers: ReplyHeaders, length: int | None = None) -> Awaitable[None]:
        """Begin a reply whose body follows in pieces; ``length`` when it is known."""

    def write(self, piece: bytes) -> Awaitable[None]:
        """One piece of the body; waits while the caller does not read."""

    def finish(self) -> Awaitable[None]:
        """End of the body."""

    def remark(self, headers: ReplyHeaders) -> None:
        """Send a comment on a quiet event stream, and begin it (status 200, ``headers``) when that is not done."""

    def cut(self) -> None:
        """Close the connection: the only honest end of a reply whose declared length cannot be kept."""


COMMENT = b": waiting\n\n"


class AsgiCaller:
    """A caller behind an ASGI server. ``watch()`` runs the exchange and cancels it when the caller hangs up."""

    __slots__ = ("_body_done", "_receive", "_send", "_tasks", "gone", "head", "started")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.head = Head(scope["path"], scope.get("query_string", b""), dict(scope["headers"]))
        self.started = False
        self.gone = False
        self._receive = receive
        self._send = send
        self._body_done = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, exchange: Awaitable[None]) -> None:
        """Carry the exchange to its end, or cancel it within a moment of the caller's leaving."""
        work = asyncio.ensure_future(exchange)
        watch = asyncio.ensure_future(self._until_gone())
        try:
            await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (work, watch):
                if not task.done():
                    task.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)
        if not work.cancelled() and (error := work.exception()) is not None:
            raise error

    async def _until_gone(self) -> None:
        await self._body_done.wait()
        while not self.gone:
            message = await self._receive()
            self.gone = message["type"] == "http.disconnect"

    def arrived(self, limit: int) -> None:
        del limit

    async def body(self, limit: int) -> bytes:
        if int(self.head.headers.get(b"content-length", b"0")) > limit:
            raise too_large(limit)
        pieces: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise CallerGone("The caller hung up before the request was whole.")
            piece = message.get("body", b"")
            size += len(piece)
            if size > limit:
                raise too_large(limit)
            pieces.append(piece)
            more = message.get("more_body", False)
        self._body_done.set()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def whole(self, status: int, headers: ReplyHeaders, body: bytes) -> None:
        await self.start(status, headers, len(body))
        await self._send({"type": "http.response.body", "body": body})

    async def start(self, status: int, headers: ReplyHeaders, length: int | None = None) -> None:
        self.started = True
        if length is not None:
            headers = [*headers, (b"content-length", b"%d" % length)]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, piece: bytes) -> None:
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def finish(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})

    def remark(self, headers: ReplyHeaders) -> None:
        task = asyncio.ensure_future(self._remark(headers, begun=self.started))
        self.started = True
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _remark(self, headers: ReplyHeaders, *, begun: bool) -> None:
        if not begun:
            await self.start(200, headers)
        await self.write(COMMENT)

    def cut(self) -> None:
        raise CallerGone("The reply cannot be completed.")
