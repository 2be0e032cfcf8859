"""How a connection ends whose caller is still sending: the reply goes first, and what comes after it is dropped.

To close a socket with unread bytes resets the connection, and the reset may overtake the reply: a caller who sent too
much would see a broken pipe in place of the 413 that says so.
"""

from __future__ import annotations

import asyncio

LINGER = 2.0
"""Seconds; nobody is read from for longer."""
MOST = 64 << 20
"""Bytes that are dropped before the connection is closed all the same."""


class Lingering(asyncio.Protocol):
    """Takes a connection over from ``before``, which is told when it is lost."""

    def __init__(self, before: asyncio.Protocol, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._before = before
        self._transport = transport
        self._left = MOST
        self._timer = loop.call_later(LINGER, transport.close)
        transport.set_protocol(self)
        if transport.can_write_eof():
            transport.write_eof()
        transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self._transport.close()

    def pause_writing(self) -> None:
        self._before.pause_writing()

    def resume_writing(self) -> None:
        self._before.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._before.connection_lost(exc)
