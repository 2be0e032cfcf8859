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

from gateway.call import Call
from gateway.dialects import BY_PATH, Speech
from gateway.errand import Errand
from gateway.errors import error_body
from gateway.exchange import Refusal
from gateway.head import Head, KnownHead
from gateway.lingering import Lingering
from gateway.settings import CLIENT_KEEP_ALIVE, MAX_HEAD, REQUEST_TIMEOUT

if TYPE_CHECKING:
    from gateway.worker import Worker

SWEEP = 1.0
"""Seconds between two looks for idle and slow connections."""
MOST_DIGITS = 12
"""Of the length of a body that is framed here."""
FRUITLESS = 4
"""Heads that are learned without ever meeting one of them again."""

_HOT: dict[bytes, Speech] = {path.encode(): speech for path, speech in BY_PATH.items()}
_HOT |= {path + b"/": speech for path, speech in _HOT.items()}

SLOW = Refusal(408, "The request did not arrive in time.", code="request_timeout")
NOT_HTTP = Refusal(400, "What was sent is not a valid HTTP request.", code="invalid_http")
LONG_HEAD = Refusal(431, f"The head of the request is longer than {MAX_HEAD} bytes.", code="headers_too_large")


class _EveryReply:
    """The fields that every reply carries."""

    __slots__ = ("fields", "rendered")

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] | None = None
        self.rendered = b""


_every_reply = _EveryReply()


class GatewayProtocol(HttpToolsProtocol):
    """uvicorn's protocol with the short way. ``worker`` is this process's."""

    worker: ClassVar[Worker]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.head_at = self.loop.time()
        """When the head now expected began to be waited for; 0 while a request is served."""
        self.head_size = 0
        self.idle = False
        """Between two requests of a kept connection."""
        self.running: Call | None = None
        """The hot request that is being answered (``cycle`` is the one that is being read)."""
        self._carry = self.worker.pipeline.carry
        self.nothing: asyncio.Future[None] = self.loop.create_future()
        """What is awaited where there is nothing to wait for."""
        self.nothing.set_result(None)
        self._fresh: Call | None = None
        """A hot request whose head has just been parsed."""
        self._known: KnownHead | None = None
        self._learned = 0
        """Heads learned since one was last met again: callers who never repeat one are not studied for ever."""
        self._missing = 0
        """Bytes that are still to come of a body that is framed here, not by the parser."""

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
        if self._missing:
            self._body_received(data)
            return
        known = self._known
        if known is not None and self.idle and data.startswith(known.before) and self._met(known, data):
            return
        at_start = self.head_at > 0.0 and not self.head_size
        if self.head_at:
            if self.idle:
                self.idle = False
                self.head_at = self.loop.time()
            self.head_size += len(data)
        elif self.cycle is not None and not self.cycle.more_body:  # the head of a request behind the one in progress
            self.head_size += len(data)
        broken = False
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade:
            self._unsupported_upgrade_warning()
        except HttpParserError:
            broken = True
        fresh, self._fresh = self._fresh, None
        if fresh is not None:
            if at_start and fresh.keep_alive and not broken and self._learned < FRUITLESS:
                self._learned += 1
                self._known = KnownHead.of(data, fresh.speech, fresh.head, len(self.headers))
            self._start_call(fresh)
        elif self.running is not None:
            self.running.stir()
        if broken:
            self._answer_and_close(NOT_HTTP)
        elif self.head_size > MAX_HEAD:
            self._answer_and_close(LONG_HEAD)

    def _met(self, known: KnownHead, data: bytes) -> bool:
        """Begin a request whose head is known, without the parser; False when it is not quite that head, or more than
        one request has come: the parser is to see it then."""
        at, after = known.digits_at, known.after
        end = data.find(b"\r", at, at + MOST_DIGITS + 1)
        digits = data[at:end]
        if end < 0 or not digits.isdigit() or not data.startswith(after, end):
            return False
        length = int(digits)
        body = data[end + len(after) :]
        missing = length - len(body)
        if missing < 0:
            return False
        self._learned = 0
        self.idle = False
        self.head_at = 0.0
        call = Call(self, known.speech, known.head, length)
        self.cycle = call  # type: ignore[assignment]
        if body:
            call.begin_with(body)
        call.more_body = missing > 0
        self._missing = missing
        self._start_call(call)
        return True

    def _body_received(self, data: bytes) -> None:
        """The next piece of a body that is framed here."""
        call: Any = self.cycle
        missing = self._missing
        rest = b""
        if len(data) > missing:
            data, rest = data[:missing], data[missing:]
        self._missing = missing = missing - len(data)
        call.feed(data)
        if not missing:
            call.more_body = False
        call.stir()
        if rest:
            self.data_received(rest)

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
        fields = dict(self.headers)
        length = fields.get(b"content-length")
        call = Call(
            self,
            speech,
            Head(path.decode("latin-1"), query, fields),
            None if length is None else int(length),
            http11=http11,
            keep_alive=http11 and parser.should_keep_alive(),
        )
        before: Any = self.cycle
        self.cycle = call  # type: ignore[assignment]
        if before is None or before.response_complete:
            self._fresh = call  # begun when the parser is through with what has come
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((call, self.app))  # type: ignore[arg-type]

    def _start_call(self, call: Call) -> None:
        if self.transport.is_closing():
            return
        self.running = call
        errand: Any = Errand(self.loop, self._carry(call, call.speech), call.ended)
        call.errand = errand
        self.tasks.add(errand)
        errand.resume()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if type(cycle) is Call:
            self.loop.call_soon(self._start_call, cycle)
        else:
            super()._start_asgi_task(cycle, app)

    def call_ended(self, call: Call) -> None:
        """The exchange of this request is over, however it went."""
        errand: Any = call.errand
        self.tasks.discard(errand)
        call.errand = None  # it holds the frames of the exchange, and they hold the call
        if self.running is call:
            self.running = None
        if not call.response_complete and not call.disconnected:
            self.transport.abort()  # a reply that was begun and not ended

    def on_body(self, body: bytes) -> None:
        call: Any = self.cycle
        if type(call) is Call:
            call.feed(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        call: Any = self.cycle
        if type(call) is Call:
            call.more_body = False
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
        if _every_reply.fields is not defaults:
            _every_reply.fields = defaults
            _every_reply.rendered = b"".join([b"%b: %b\r\n" % pair for pair in defaults])
        return _every_reply.rendered

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
        if self.transport.is_closing():
            return
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
        Lingering(self, self.transport, self.loop)
