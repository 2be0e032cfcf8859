"""One hot request and its reply on a connection of ours, without ASGI's messages in between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.body import too_large
from gateway.caller import COMMENT, ReplyHeaders
from gateway.dialects import Speech
from gateway.errand import Errand, parked, wake
from gateway.errors import CallerGone, RequestRefused
from gateway.exchange import Refusal
from gateway.head import Head
from gateway.lingering import Lingering

if TYPE_CHECKING:
    from gateway.protocol import GatewayProtocol

LARGE = 32 * 1024
"""A body of more bytes is not joined with its head."""


class Call:
    """The pipeline's :class:`~gateway.caller.Caller` on a connection of ours.

    Also what uvicorn looks at in its own request cycles: ``response_complete``, ``keep_alive``, ``disconnected``.
    """

    __slots__ = (
        "_chunked",
        "_failure",
        "_length",
        "_limit",
        "_pieces",
        "_protocol",
        "_size",
        "_transport",
        "_waiter",
        "disconnected",
        "errand",
        "fed_at",
        "gone",
        "head",
        "keep_alive",
        "more_body",
        "response_complete",
        "speech",
        "started",
    )

    def __init__(
        self,
        protocol: GatewayProtocol,
        speech: Speech,
        head: Head,
        length: int | None,
        *,
        http11: bool = True,
        keep_alive: bool = True,
    ) -> None:
        self._protocol = protocol
        self._transport = protocol.transport
        self._pieces: list[bytes] = []
        self._size = self._limit = 0
        self._length = length
        """The body's, as declared."""
        self._chunked = http11
        self._waiter: asyncio.Future[None] | Errand | None = None
        self._failure: Refusal | None = None
        self.speech = speech
        self.head = head
        self.keep_alive = keep_alive
        self.more_body = True
        self.fed_at = 0.0
        """When a piece of the body last came; 0 while none is waited for."""
        self.started = self.gone = self.disconnected = self.response_complete = False
        self.errand: Errand | None = None

    # --- the request -------------------------------------------------------------------------------------------------

    def arrived(self, limit: int) -> bytes | None:
        if self.more_body or self._size > limit or self._failure is not None:
            return None
        pieces = self._pieces
        body = pieces.pop() if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return body

    async def body(self, limit: int) -> bytes:
        if self._length is not None and self._length > limit:
            self.keep_alive = False
            raise too_large(limit)
        if self.more_body and not self._pieces and self.head.headers.get(b"expect", b"").lower() == b"100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        loop = self._protocol.loop
        self.fed_at = loop.time()
        self._limit = limit
        while self.more_body and self._size <= limit and self._failure is None:
            self._waiter = waiter = parked(loop)
            await waiter
        self.fed_at = 0.0
        if self._failure is not None:
            raise RequestRefused(self._failure)
        if self._size > limit:
            self.keep_alive = False
            raise too_large(limit)
        return self.arrived(limit) or b""

    def begin_with(self, piece: bytes) -> None:
        """The body, or its beginning, has come with the head."""
        self._pieces.append(piece)
        self._size = len(piece)

    def feed(self, piece: bytes) -> None:
        """A piece of the body has come. Whoever feeds calls :meth:`stir` in the end."""
        if self.started:
            return  # refused already: the rest is read and forgotten
        self._size += len(piece)
        self._pieces.append(piece)
        if self.fed_at:
            self.fed_at = self._protocol.loop.time()

    def spoil(self, refusal: Refusal) -> None:
        """The rest of the body will not come, or cannot be read."""
        self.keep_alive = False
        self._failure = refusal
        self.stir()

    def stir(self) -> None:
        """Let the exchange go on when it waits for a body that is whole now, or too long, or will not come."""
        waiter = self._waiter
        if waiter is not None and (not self.more_body or self._size > self._limit or self._failure is not None):
            self._waiter = None
            wake(waiter)

    def lost(self) -> None:
        """The caller hung up: whatever is under way for it ends now."""
        self.disconnected = self.gone = True
        if self.errand is not None and not self.response_complete:
            self.errand.cancel()

    def ended(self) -> None:
        """The exchange is over."""
        self._protocol.call_ended(self)

    # --- the reply: written at once; what is given back is awaited, for a caller who reads slowly ---------------------

    def whole(self, status: int, headers: ReplyHeaders, body: bytes) -> Awaitable[None]:
        if self.disconnected:
            raise CallerGone("The caller hung up.")
        self.started = True
        head = self._head(status, headers, b"content-length: %d\r\n" % len(body))
        if len(body) > LARGE:
            self._transport.writelines((head, body))
            if self._protocol.flow.write_paused:
                return self._completed_later()
        else:
            self._transport.write(head + body)
        self._complete()
        return self._protocol.nothing

    def start(self, status: int, headers: ReplyHeaders, length: int | None = None) -> Awaitable[None]:
        if self.disconnected:
            raise CallerGone("The caller hung up.")
        self.started = True
        self._begin(status, headers, length)
        return self._protocol.nothing

    def _begin(self, status: int, headers: ReplyHeaders, length: int | None) -> None:
        if length is not None:
            self._chunked = False
            framing = b"content-length: %d\r\n" % length
        elif self._chunked:
            framing = b"transfer-encoding: chunked\r\n"
        else:
            framing = b""
            self.keep_alive = False
        self._transport.write(self._head(status, headers, framing))

    def write(self, piece: bytes) -> Awaitable[None]:
        if self.disconnected:
            raise CallerGone("The caller hung up.")
        if self._chunked:
            self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        else:
            self._transport.write(piece)
        return self._protocol.flow.drain() if self._protocol.flow.write_paused else self._protocol.nothing

    def finish(self) -> Awaitable[None]:
        if not self.disconnected:
            if self._chunked:
                self._transport.write(b"0\r\n\r\n")
            self._complete()
        return self._protocol.nothing

    def remark(self, headers: ReplyHeaders) -> None:
        if self.disconnected or self.response_complete:
            return
        if not self.started:
            self.started = True
            self._begin(200, headers, None)
        self._transport.write(b"%x\r\n%b\r\n" % (len(COMMENT), COMMENT) if self._chunked else COMMENT)

    def cut(self) -> None:
        self.keep_alive = False
        self._transport.abort()

    async def _completed_later(self) -> None:
        await self._protocol.flow.drain()
        self._complete()

    def _head(self, status: int, headers: ReplyHeaders, framing: bytes) -> bytes:
        if self.more_body:
            self.keep_alive = False  # part of the request has not come: the next one could not be told from it
        fields = b"\r\n".join(map(b": ".join, headers))
        closing = b"" if self.keep_alive else b"connection: close\r\n"
        return b"%b%b%b\r\n%b%b\r\n" % (STATUS_LINE[status], self._protocol.date(), fields, framing, closing)

    def _complete(self) -> None:
        self.response_complete = True
        if self.more_body:
            Lingering(self._protocol, self._transport, self._protocol.loop)
        elif not self.keep_alive:
            self._transport.close()
        self._protocol.on_response_complete()
