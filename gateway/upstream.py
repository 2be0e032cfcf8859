"""Our own HTTP/1.1 client: pooled connections that carry bytes, and nothing else.

One :class:`Pool` per origin (scheme, host, port). ``await pool.request(...)`` writes one request and returns the
:class:`Connection` once the reply's head is there; ``await connection.next()`` gives what has arrived since, joined;
``connection.release()`` puts it back or closes it. What is guaranteed:

- A request is sent again only when a *reused* connection closed before a single byte came back, and only once.
- A reply that ends before its declared length raises; one without a declared length ends with the connection.
- Bytes that nobody asked for (after a reply, or on an idle connection) close the connection: nothing leaks into the
next.
- A slow reader stops the socket from being read (back-pressure); at most ``HIGH_WATER`` plus one read is held.
- Four timeouts: connect, first_token, between_chunks, total. One timer for all connections (see :class:`Watch`).

Foreign errors (sockets, TLS, parsing) become ``UpstreamFailed`` here and only here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import httptools
import msgspec

from gateway.body import Pieces
from gateway.errand import Errand, in_task, running, wake
from gateway.errors import ConnectFailed, TimeoutPhase, UpstreamBroken, UpstreamFailed, UpstreamTimeout

HIGH_WATER = 256 * 1024
"""Bytes of a reply held before the socket is no longer read."""
MAX_HEAD = 64 * 1024
"""Bytes of a reply's head (status line and header fields)."""
TICK = 0.05
"""Seconds between two looks of the watch: the precision of every timeout but connect."""


Message = bytes | Pieces
"""A request as it is written: one piece, or several when the body is too long to be copied."""


class Timeouts(msgspec.Struct, frozen=True):
    """Seconds. ``first_token`` runs from the request to the first byte of the reply's body."""

    connect: float = 5.0
    first_token: float = 120.0
    between_chunks: float = 60.0
    total: float = 600.0


class Watch:
    """Looks at every busy connection each ``TICK`` seconds and fails those whose deadline has passed.

    One timer for all instead of two or three per request: setting a deadline is one attribute.
    """

    __slots__ = ("_timer", "busy", "looking", "loop", "pools")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.busy: set[Connection] = set()
        self.pools: list[Pool] = []
        self.looking = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to look; idempotent."""
        if not self.looking:
            self.looking = True
            self._timer = self.loop.call_later(TICK, self._look)

    def stop(self) -> None:
        """Stop looking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.looking = False

    def _look(self) -> None:
        now = self.loop.time()
        for connection in list(self.busy):
            connection.look(now)
        for pool in self.pools:
            pool.close_stale(now)
        self.looking = bool(self.busy) or any(pool.idle for pool in self.pools)
        self._timer = self.loop.call_later(TICK, self._look) if self.looking else None


class Connection(asyncio.Protocol):
    """One connection and the reply that is on it. Owned by one request at a time."""

    __slots__ = (
        "_chunks",
        "_deadline",
        "_informational",
        "_keep_alive",
        "_loop",
        "_on_quiet",
        "_parser",
        "_paused",
        "_phase",
        "_pool",
        "_quiet_at",
        "_quiet_every",
        "_size",
        "_timeouts",
        "_total_at",
        "_transport",
        "_waiter",
        "busy",
        "closed",
        "complete",
        "failure",
        "head_size",
        "headers",
        "idle_since",
        "received",
        "status",
    )

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._loop = pool.watch.loop
        self._parser: Any = httptools.HttpResponseParser(self)
        self._transport: Any = None
        self._waiter: asyncio.Future[None] | Errand | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        self._paused = False
        self._informational = False
        self._keep_alive = False
        self._on_quiet: Callable[[], None] | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.status = 0
        self.head_size = 0
        self.received = False
        """Whether a single byte came back for the current request."""
        self.complete = False
        self.busy = False
        self.closed = False
        self.failure: UpstreamFailed | None = None
        self.idle_since = 0.0

    # --- what the pipeline does with it ------------------------------------------------------------------------------

    def begin(
        self,
        message: Message,
        timeouts: Timeouts,
        now: float,
        total_at: float,
        on_quiet: Callable[[], None] | None,
        quiet: float,
    ) -> None:
        """Write one request. ``on_quiet`` is called each ``quiet`` seconds until the first byte of the body."""
        self.headers = []
        self.status = self.head_size = 0
        self.received = self.complete = False
        self.busy = True
        self._phase: TimeoutPhase = "first_token"
        self._timeouts = timeouts
        self._total_at = total_at
        self._deadline = now + timeouts.first_token
        self._on_quiet = on_quiet
        if on_quiet is not None:
            self._quiet_every = quiet
            self._quiet_at = now + quiet
        watch = self._pool.watch
        watch.busy.add(self)
        if not watch.looking:
            watch.start()
        if isinstance(message, bytes):
            self._transport.write(message)
        else:
            self._transport.writelines(message)

    def check(self) -> None:
        """Raises the failure, when nothing of the body came before it."""
        if self.failure is not None and not self._chunks:
            raise self.failure

    def arrived(self) -> bytes | None:
        """The body, when all of it has arrived already; else None."""
        if not self.complete:
            return None
        chunks = self._chunks
        if len(chunks) != 1 or self._paused:
            return self._take() if chunks else b""
        self._size = 0
        return chunks.pop()

    async def next(self) -> bytes:
        """What has arrived of the body since the last call, as one piece; ``b""`` at its end.

        Raises UpstreamFailed when the reply cannot be completed (what had arrived was given before).
        """
        while True:
            if self._chunks:
                return self._take()
            if self.complete:
                return b""
            await self.more()

    def release(self) -> None:
        """The request is done with: keep the connection for the next one if its reply is complete, else close it."""
        if not self.busy:
            return
        self.busy = False
        self._on_quiet = None
        self._waiter = None
        failed = self.failure is not None
        self.failure = None  # its traceback holds the frames of the request, and they hold this connection
        self._pool.watch.busy.discard(self)
        if self.complete and self._keep_alive and not (self.closed or failed or self._chunks):
            self._pool.keep(self)
        else:
            self.close()

    def close(self) -> None:
        """Close at once; what is under way is dropped."""
        if not self.closed:
            self.closed = True
            self._transport.abort()

    # --- what the loop tells it --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if not self.busy or self.complete:
            self.closed = True
            self._transport.abort()
            return
        self.received = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(UpstreamBroken("The upstream did not speak HTTP.", started=bool(self.status)))
            return
        if not self.status:
            self.head_size += len(data)
            if self.head_size > MAX_HEAD:
                self._fail(UpstreamBroken(f"The head of the upstream's reply is longer than {MAX_HEAD} bytes."))
            return
        if self._size > HIGH_WATER and not self.complete:
            self._paused = True
            self._transport.pause_reading()
            self._deadline = self._total_at  # the reader is slow, not the upstream
        elif self._size:
            self._phase = "between_chunks"
            self._deadline = self._loop.time() + self._timeouts.between_chunks
            self._on_quiet = None
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if not self.busy or self.complete:
            return
        if self.status and exc is None and not self._framed():
            self.complete = True
            self._keep_alive = False
            self._wake()
            return
        self._fail(UpstreamBroken("The upstream closed the connection too early.", started=bool(self.status)))

    # --- what the parser tells it ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.complete:  # a second reply in the same read: nobody asked for it
            self._keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:  # else a trailer
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self._informational = True
            self.headers.clear()
            return
        self.status = status
        self._keep_alive = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        if not self.complete:
            self._chunks.append(body)
            self._size += len(body)

    def on_message_complete(self) -> None:
        if self._informational:
            self._informational = False
            return
        self.complete = True

    # --- inside ------------------------------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Called by the watch: fail when too late, remind the caller's side when it has been quiet for long."""
        if now >= self._total_at:
            self._fail(UpstreamTimeout("total", self._timeouts.total, started=bool(self.status)))
        elif now >= self._deadline:
            seconds = self._timeouts.first_token if self._phase == "first_token" else self._timeouts.between_chunks
            self._fail(UpstreamTimeout(self._phase, seconds, started=bool(self.status)))
        elif self._on_quiet is not None and now >= self._quiet_at:
            self._quiet_at = now + self._quiet_every
            self._on_quiet()

    def _framed(self) -> bool:
        return any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers)

    def _take(self) -> bytes:
        chunks = self._chunks
        if len(chunks) == 1:
            piece = chunks.pop()
        else:
            piece = b"".join(chunks)
            chunks.clear()
        self._size = 0
        if self._paused and not self.closed:
            self._paused = False
            self._deadline = self._loop.time() + self._timeouts.between_chunks
            self._transport.resume_reading()
        return piece

    def more(self) -> asyncio.Future[None] | Errand:
        """To be awaited: something has come, or the reply has failed. Raises the failure when it is known already."""
        if self.failure is not None:
            raise self.failure
        self._waiter = waiter = running.errand or self._loop.create_future()
        return waiter

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if type(waiter) is Errand:
                waiter.resume()
            else:
                wake(waiter)

    def _fail(self, failure: UpstreamFailed) -> None:
        if self.failure is None:
            self.failure = failure
        self.close()
        self._wake()


class Pool:
    """Connections to one origin. ``keep_alive``: seconds an idle one is kept (shorter than providers keep theirs)."""

    def __init__(
        self,
        watch: Watch,
        host: str,
        port: int,
        tls: ssl.SSLContext | None = None,
        *,
        keep_alive: float = 15.0,
        max_idle: int = 512,
    ) -> None:
        self.watch = watch
        self.host = host
        self.port = port
        self.tls = tls
        self.keep_alive = keep_alive
        self.max_idle = max_idle
        self.idle: list[Connection] = []
        self.opened = 0
        """Connections opened so far."""
        watch.pools.append(self)

    async def request(
        self,
        message: Message,
        timeouts: Timeouts,
        *,
        on_quiet: Callable[[], None] | None = None,
        quiet: float = 0.0,
    ) -> Connection:
        """Send ``message`` (head and body) and wait for the reply's head. The caller must ``release()`` what it gets.

        Raises ConnectFailed, UpstreamTimeout, UpstreamBroken.
        """
        now = self.watch.loop.time()
        total_at = now + timeouts.total
        connection = self._reuse(now)
        while True:
            reused = connection is not None
            if connection is None:
                connection = await self._connect(timeouts)
                now = self.watch.loop.time()
            connection.begin(message, timeouts, now, total_at, on_quiet, quiet)
            try:
                while not connection.status:
                    await connection.more()
                connection.check()
            except UpstreamBroken:
                stale = reused and not connection.received
                connection.release()
                if not stale:
                    raise
                connection = None
            except BaseException:
                connection.release()
                raise
            else:
                return connection

    def keep(self, connection: Connection) -> None:
        """Take back a connection whose reply is complete."""
        if len(self.idle) >= self.max_idle:
            connection.close()
            return
        connection.idle_since = self.watch.loop.time()
        self.idle.append(connection)

    def close(self) -> None:
        """Close the idle connections."""
        for connection in self.idle:
            connection.close()
        self.idle.clear()
        if self in self.watch.pools:
            self.watch.pools.remove(self)

    def close_stale(self, now: float) -> None:
        """Close what has been idle for too long (the list is in order of use: the oldest come first)."""
        old = 0
        for connection in self.idle:
            if not connection.closed and now - connection.idle_since < self.keep_alive:
                break
            connection.close()
            old += 1
        if old:
            del self.idle[:old]

    def _reuse(self, now: float) -> Connection | None:
        idle = self.idle
        while idle:
            connection = idle.pop()
            if connection.closed:
                continue
            if now - connection.idle_since < self.keep_alive:
                return connection
            connection.close()
        return None

    async def _connect(self, timeouts: Timeouts) -> Connection:
        await in_task()
        try:
            async with asyncio.timeout(timeouts.connect):
                _, connection = await self.watch.loop.create_connection(
                    lambda: Connection(self),
                    self.host,
                    self.port,
                    ssl=self.tls,
                    server_hostname=self.host if self.tls else None,
                )
        except TimeoutError:
            raise UpstreamTimeout("connect", timeouts.connect) from None
        except ssl.SSLCertVerificationError as error:
            raise ConnectFailed(f"The upstream's TLS certificate is not trusted: {error.verify_message}.") from error
        except OSError as error:
            raise ConnectFailed("The upstream could not be reached.") from error
        self.opened += 1
        return connection
