"""Our server protocol: uvicorn's, with a short way for the hot routes.

uvicorn owns the sockets, the life cycle and every other route. For a hot route this protocol makes no ASGI scope and no
messages: the pipeline's task reads the body from and writes the reply to the connection through a :class:`Call`. On
top of uvicorn's protocol it bounds the head, times out slow senders, answers what is not HTTP in the dialect's error
shape, and cancels an exchange the moment its caller hangs up.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

from httptools import HttpParserError, HttpParserUpgrade
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.body import too_large
from gateway.caller import COMMENT, ReplyHeaders
from gateway.dialects import BY_PATH, Speech
from gateway.errors import CallerGone, RequestRefused, error_body
from gateway.exchange import Refusal
from gateway.settings import CLIENT_KEEP_ALIVE, MAX_HEAD, REQUEST_TIMEOUT

if TYPE_CHECKING:
    from gateway.worker import Worker

SWEEP = 1.0
"""Seconds between two looks for idle and slow connections."""
LARGE = 32 * 1024
"""A body of more bytes is not joined with its head."""

_HOT: dict[bytes, Speech] = {path.encode(): speech for path, speech in BY_PATH.items()}
_HOT |= {path + b"/": speech for path, speech in _HOT.items()}

SLOW = Refusal(408, "The request did not arrive in time.", code="request_timeout")
NOT_HTTP = Refusal(400, "What was sent is not a valid HTTP request.", code="invalid_http")
LONG_HEAD = Refusal(431, f"The head of the request is longer than {MAX_HEAD} bytes.", code="headers_too_large")


class Call:
    """One hot request and its reply on a connection: the pipeline's :class:`~gateway.caller.Caller`.

    Also what uvicorn looks at in its own request cycles: ``response_complete``, ``keep_alive``, ``disconnected``.
    """

    started = False
    gone = False
    disconnected = False
    response_complete = False
    more_body = True
    fed_at = 0.0
    """When a piece of the body last came; 0 while none is waited for."""
    task: asyncio.Task[None] | None = None
    _size = 0
    _waiter: asyncio.Future[None] | None = None
    _failure: Refusal | None = None

    def __init__(
        self,
        protocol: GatewayProtocol,
        speech: Speech,
        path: bytes,
        query: bytes,
        headers: dict[bytes, bytes],
        *,
        http11: bool,
        keep_alive: bool,
    ) -> None:
        self._protocol = protocol
        self._transport = protocol.transport
        self._pieces: list[bytes] = []
        self._chunked = http11
        self.speech = speech
        self.path = path.decode("latin-1")
        self.query = query
        self.headers = headers
        self.keep_alive = keep_alive

    # --- the request -------------------------------------------------------------------------------------------------

    async def body(self, limit: int) -> bytes:
        declared = self.headers.get(b"content-length")
        if declared is not None and int(declared) > limit:
            self.keep_alive = False
            raise too_large(limit)
        if self.more_body and not self._pieces and self.headers.get(b"expect", b"").lower() == b"100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self.more_body and self._size <= limit and self._failure is None:
            pieces = self._pieces
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        loop = self._protocol.loop
        self.fed_at = loop.time()
        while self.more_body and self._size <= limit and self._failure is None:
            self._waiter = loop.create_future()
            await self._waiter
            self._waiter = None
        self.fed_at = 0.0
        if self._failure is not None:
            raise RequestRefused(self._failure)
        if self._size > limit:
            self.keep_alive = False
            raise too_large(limit)
        pieces = self._pieces
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def feed(self, piece: bytes) -> None:
        """A piece of the body has come."""
        if self.started:
            return  # refused already: the rest is read and forgotten
        self._size += len(piece)
        self._pieces.append(piece)
        if self.fed_at:
            self.fed_at = self._protocol.loop.time()
        self._wake()

    def fed(self) -> None:
        """The body is whole."""
        self.more_body = False
        self._wake()

    def spoil(self, refusal: Refusal) -> None:
        """The rest of the body will not come, or cannot be read."""
        self.keep_alive = False
        self._failure = refusal
        self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def lost(self) -> None:
        """The caller hung up: whatever is under way for it ends now."""
        self.disconnected = self.gone = True
        if self.task is not None and not self.response_complete:
            self.task.cancel()

    # --- the reply ---------------------------------------------------------------------------------------------------

    async def whole(self, status: int, headers: ReplyHeaders, body: bytes) -> None:
        if self.disconnected:
            raise CallerGone("The caller hung up.")
        self.started = True
        head = self._head(status, headers, b"content-length: %d\r\n" % len(body))
        if len(body) > LARGE:
            self._transport.writelines((head, body))
            await self._drained()
        else:
            self._transport.write(head + body)
        self._complete()

    async def start(self, status: int, headers: ReplyHeaders, length: int | None = None) -> None:
        if self.disconnected:
            raise CallerGone("The caller hung up.")
        self.started = True
        self._begin(status, headers, length)

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

    async def write(self, piece: bytes) -> None:
        if self.disconnected:
            raise CallerGone("The caller hung up.")
        if self._chunked:
            self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        else:
            self._transport.write(piece)
        if self._protocol.flow.write_paused:
            await self._drained()

    async def finish(self) -> None:
        if self.disconnected:
            return
        if self._chunked:
            self._transport.write(b"0\r\n\r\n")
        self._complete()

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

    async def _drained(self) -> None:
        if self._protocol.flow.write_paused:
            await self._protocol.flow.drain()

    def _head(self, status: int, headers: ReplyHeaders, framing: bytes) -> bytes:
        if self.more_body:
            self.keep_alive = False  # part of the request has not come: the next one could not be told from it
        fields = b"\r\n".join(map(b": ".join, headers))
        closing = b"" if self.keep_alive else b"connection: close\r\n"
        return b"%b%b%b\r\n%b%b\r\n" % (STATUS_LINE[status], self._protocol.date(), fields, framing, closing)

    def _complete(self) -> None:
        self.response_complete = True
        if not self.keep_alive:
            self._transport.close()
        self._protocol.on_response_complete()


class GatewayProtocol(HttpToolsProtocol):
    """uvicorn's protocol with the short way. ``worker`` is this process's."""

    worker: ClassVar[Worker]
    _date: ClassVar[tuple[Any, bytes]] = (None, b"")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.head_at = self.loop.time()
        """When the head now expected began to be waited for; 0 while a request is served."""
        self.head_size = 0
        self.idle = False
        """Between two requests of a kept connection."""
        self.running: Call | None = None
        """The hot request that is being answered (``cycle`` is the one that is being read)."""

    def connection_lost(self, exc: Exception | None) -> None:
        if self.running is not None:
            self.running.lost()
        call: Any = self.cycle
        if type(call) is Call:
            self.connections.discard(self)
            self.flow.resume_writing()
            call.disconnected = call.gone = True
            self.pipeline.clear()
            self.parser = None
        else:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.head_at:
            if self.idle:
                self.idle = False
                self.head_at = self.loop.time()
            self.head_size += len(data)
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade:
            self._unsupported_upgrade_warning()
        except HttpParserError:
            self._answer_and_close(NOT_HTTP)
            return
        if self.head_size > MAX_HEAD and self.head_at:
            self._answer_and_close(LONG_HEAD)

    def _unset_keepalive_if_required(self) -> None:
        """Idle connections are closed by :meth:`sweep`, without a timer each."""

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.head_at = 0.0
        self.head_size = 0
        url = self.url
        path, _, query = url.partition(b"?")
        speech = _HOT.get(path)
        parser = self.parser
        if speech is None or parser.get_method() != b"POST":
            headers = self.headers
            super().on_message_begin()
            self.url = url
            self.expect_100_continue = dict(headers).get(b"expect", b"").lower() == b"100-continue"
            self.headers = self.scope["headers"] = headers
            super().on_headers_complete()
            return
        http11 = parser.get_http_version() == "1.1"
        call = Call(
            self,
            speech,
            path,
            query,
            dict(self.headers),
            http11=http11,
            keep_alive=http11 and parser.should_keep_alive(),
        )
        before: Any = self.cycle
        self.cycle = call  # type: ignore[assignment]
        if before is None or before.response_complete:
            self._start_call(call)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((call, self.app))  # type: ignore[arg-type]

    def _start_call(self, call: Call) -> None:
        self.running = call
        task = call.task = self.loop.create_task(self.worker.pipeline.carry(call, call.speech))
        self.tasks.add(task)
        task.add_done_callback(self._call_done)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if type(cycle) is Call:
            self._start_call(cycle)
        else:
            super()._start_asgi_task(cycle, app)

    def _call_done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        call = self.running
        if call is not None and call.task is task:
            self.running = call.task = None  # a cancelled task holds its frames, and they hold the call
            if not call.response_complete and not call.disconnected:
                self.transport.abort()  # a reply that was begun and not ended
        if not task.cancelled():
            task.exception()

    def on_body(self, body: bytes) -> None:
        call: Any = self.cycle
        if type(call) is Call:
            call.feed(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        call: Any = self.cycle
        if type(call) is Call:
            call.fed()
        else:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        else:
            self.idle = True
            self.head_at = self.loop.time()

    def date(self) -> bytes:
        """The fields that every reply carries, rendered once a second."""
        defaults = self.server_state.default_headers
        known, rendered = GatewayProtocol._date
        if known is not defaults:
            rendered = b"".join([b"%b: %b\r\n" % pair for pair in defaults])
            GatewayProtocol._date = (defaults, rendered)
        return rendered

    def sweep(self, now: float) -> None:
        """Close what has been idle for too long, and refuse those that send too slowly."""
        if self.head_at:
            if self.idle:
                if now - self.head_at > CLIENT_KEEP_ALIVE:
                    self.transport.close()
            elif now - self.head_at > REQUEST_TIMEOUT:
                self._answer_and_close(SLOW)
        call: Any = self.cycle
        if type(call) is Call and call.fed_at and now - call.fed_at > REQUEST_TIMEOUT:
            call.spoil(SLOW)

    def send_400_response(self, msg: str) -> None:
        del msg
        self._answer_and_close(NOT_HTTP)

    def _answer_and_close(self, refusal: Refusal) -> None:
        call: Any = self.cycle
        if call is not None and not call.response_complete:
            if type(call) is Call and not call.started and call.more_body:
                call.spoil(refusal)
            else:
                self.transport.abort()  # a reply is under way: another one would be taken for a part of it
            return
        body = error_body("messages" if b"/messages" in (getattr(self, "url", b"") or b"") else "chat", refusal)
        head = b"%b%bcontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (STATUS_LINE[refusal.status], self.date(), len(body)) + body)
        self.transport.close()
