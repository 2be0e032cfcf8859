"""The way back: from the upstream's reply to the caller, whole or as a stream, keeping a bounded copy.

Streams are forwarded as they come: what arrived in one read is one write; no event is parsed. Only complete events are
passed on, so that a stream which is cut ends cleanly: with what was whole, an error event, and no ``[DONE]``.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from gateway.caller import Caller, ReplyHeaders
from gateway.errors import UpstreamBroken, UpstreamFailed, UpstreamTimeout, error_event, upstream_refusal
from gateway.exchange import Dialect, Exchange, Headers
from gateway.lanes import Asked
from gateway.usage import UsageChunk, usage_of_reply, usage_of_stream
from gateway.wire import Reply

WHOLE = 4 * 2**20
"""Bytes of a reply that are held, so that a failure can still become a real error status; a longer one is passed in
pieces."""
TAIL = 4096
"""Last bytes of a stream that are kept: how it ended, and its usage."""
MOST_RECENT = 32
"""Ends of pieces that are held before they are joined to one tail."""
LONGEST_EVENT = 256 * 1024
"""An event that is longer than this is passed on in pieces."""

_DROPPED = frozenset(
    (
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-connection", b"te", b"trailer",
        b"transfer-encoding", b"upgrade", b"content-length", b"date", b"server", b"set-cookie", b"alt-svc",
        b"strict-transport-security", b"x-accel-buffering", b"x-metaspo-exchange", b"x-metaspo-domain",
        b"x-metaspo-version", b"x-metaspo-arm", b"access-control-allow-origin", b"access-control-expose-headers",
        b"access-control-allow-credentials",
    )
)  # fmt: skip
"""Header fields of the upstream that are about its own connection, or ours to set."""

_ENDED = {
    "chat": re.compile(rb'data: ?\[DONE\]|"finish_reason": ?"'),
    "completions": re.compile(rb'data: ?\[DONE\]|"finish_reason": ?"'),
    "responses": re.compile(rb'response\.(completed|failed|incomplete)"|data: ?\[DONE\]'),
    "messages": re.compile(rb'"message_stop"'),
}
"""How a whole stream ends in each dialect."""
_GAVE_UP = re.compile(
    rb'^event: ?(?:error|response\.failed)|^data: ?\{"(?:error": ?[{"]|type": ?"(?:error|response\.failed)")',
    re.MULTILINE,
)
"""How an upstream says inside a stream that it failed: passed on as it is, and no good example."""

_CLOSING = re.compile(
    rb'^(?:event: ?|data: ?\{[^\n]{0,200}?"type": ?")response\.(?:completed|failed|incomplete)', re.MULTILINE
)
_EVENT_ENDS = (b"\n\n", b"\n\r\n", b"\r\r")


def kept(headers: Headers) -> ReplyHeaders:
    """The upstream's header fields that the caller gets."""
    return [pair for pair in headers if pair[0] not in _DROPPED]


def is_event_stream(headers: Headers) -> bool:
    """Whether these are the header fields of server-sent events."""
    return any(name == b"content-type" and value[:17].lower() == b"text/event-stream" for name, value in headers)


async def relay_whole(asked: Asked, reply: Reply, clock: Callable[[], float], max_copy: int) -> None:
    """Pass on a reply that is no stream. Raises UpstreamFailed while nothing was sent yet."""
    exchange, caller, ours = asked.exchange, asked.caller, asked.ours
    body = reply.arrived()
    if body is None:
        body = await reply.next()
    if body:
        exchange.first_byte_at = clock()
    pieces = [body]
    size = len(body)
    while not reply.complete and size <= WHOLE and (piece := await reply.next()):
        pieces.append(piece)
        size += len(piece)
    exchange.status = reply.status
    if size <= WHOLE:
        if len(pieces) > 1:
            body = b"".join(pieces)
        await caller.whole(reply.status, kept(reply.headers) + ours, body)
        exchange.reply = [body] if size <= max_copy else [body[:max_copy]]
        exchange.reply_size = size
        if reply.status == 200:
            exchange.usage = usage_of_reply(body)
        return
    await caller.start(reply.status, kept(reply.headers) + ours, _length(reply.headers))
    exchange.reply = [b"".join(pieces)[:max_copy]]
    try:
        for piece in pieces:
            await caller.write(piece)
        while piece := await reply.next():
            size += len(piece)
            exchange.reply_tail = piece[-TAIL:]
            await caller.write(piece)
    except UpstreamFailed as failure:
        _note(exchange, failure)
        caller.cut()
        return
    finally:
        exchange.reply_size = size
    await caller.finish()


def _length(headers: Headers) -> int | None:
    length = next((value for name, value in headers if name == b"content-length"), b"")
    return int(length) if length.isdigit() else None


async def relay_stream(asked: Asked, reply: Reply, clock: Callable[[], float], max_copy: int) -> None:
    """Pass on an event stream. Raises UpstreamFailed while nothing was sent yet; later ones become an error event."""
    exchange, caller = asked.exchange, asked.caller
    exchange.status = reply.status
    copy = exchange.reply
    events = ResponseEvents() if exchange.dialect == "responses" else Events()
    hidden = UsageChunk() if asked.hide_usage else None
    recent: list[bytes] = []
    size = 0
    try:
        while piece := await reply.next():
            piece = events.feed(piece)
            if hidden is not None:
                piece = hidden.strip(piece)
            if not piece:
                continue
            if not size:
                exchange.first_byte_at = clock()
                await _begin(asked, reply)
            if size < max_copy:
                copy.append(piece)
            size += len(piece)
            recent.append(piece[-TAIL:])
            if len(recent) > MOST_RECENT:
                recent = [_tail(recent)]
            await caller.write(piece)
        recent.append(events.held)
        _check_end(exchange, events.said + _tail(recent))
        await _begin(asked, reply)
        if events.held:
            await caller.write(events.held)
        await caller.finish()
    except UpstreamFailed as failure:
        _note(exchange, failure)
        if not caller.started:
            raise
        await say_failure(exchange.dialect, caller, failure)
    finally:
        exchange.reply_size = size + len(events.held)
        exchange.reply_tail = tail = _tail(recent)
        told = hidden.usage if hidden is not None else None
        exchange.usage = told or usage_of_stream(copy[0] if copy else b"", tail)


async def _begin(asked: Asked, reply: Reply) -> None:
    """Send the head of a stream, unless a comment has."""
    if not asked.caller.started:
        await asked.caller.start(reply.status, stream_headers(reply.headers, asked.ours))


def _tail(pieces: list[bytes]) -> bytes:
    return b"".join(pieces)[-TAIL:]


def _check_end(exchange: Exchange, tail: bytes) -> None:
    """Whether a stream that has ended is whole. Raises UpstreamBroken; not where the upstream said itself that it
    failed."""
    if _GAVE_UP.search(tail) is not None:
        exchange.ending = "cut"
    elif (ended := _ENDED.get(exchange.dialect)) is not None and ended.search(tail) is None:
        raise UpstreamBroken("The upstream ended the stream too early.", started=True)


class Events:
    """Holds back the end of what has come until its event is whole. ``held`` is that end."""

    __slots__ = ("held",)

    said = b""
    """How the stream has ended, where its tail may not show it."""

    def __init__(self) -> None:
        self.held = b""

    def feed(self, piece: bytes) -> bytes:
        """The complete events so far (an event beyond ``LONGEST_EVENT`` is passed on in pieces)."""
        if self.held:
            piece = self.held + piece
            self.held = b""
        if piece.endswith(_EVENT_ENDS) or len(piece) > LONGEST_EVENT:
            return piece
        end = max(place + len(mark) if (place := piece.rfind(mark)) >= 0 else 0 for mark in _EVENT_ENDS)
        self.held = piece[end:]
        return piece[:end]


class ResponseEvents(Events):
    """Of a response, whose last event repeats all of it, and so is longer than the tail that is kept."""

    __slots__ = ("said",)

    def __init__(self) -> None:
        super().__init__()
        self.said = b""

    def feed(self, piece: bytes) -> bytes:
        piece = super().feed(piece)
        if (b"response.completed" in piece or b"response.incomplete" in piece or b"response.failed" in piece) and (
            found := _CLOSING.search(piece)
        ):
            self.said = found[0] + b'"\n'
        return piece


async def say_failure(dialect: Dialect, caller: Caller, failure: UpstreamFailed) -> None:
    """The end of a stream that has begun and cannot go on: an error event and no ``[DONE]``."""
    await caller.write(error_event(dialect, upstream_refusal(failure)))
    await caller.finish()


def stream_headers(upstream: Headers, ours: ReplyHeaders) -> ReplyHeaders:
    """The header fields of an event stream: the upstream's, and what keeps proxies from holding it back."""
    headers = [pair for pair in kept(upstream) if pair[0] != b"cache-control"]
    return [*headers, (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"), *ours]


def _note(exchange: Exchange, failure: UpstreamFailed) -> None:
    exchange.ending = "timeout" if isinstance(failure, UpstreamTimeout) else "cut"
