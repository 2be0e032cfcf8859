"""The wire lane: bytes through, to an upstream that speaks the caller's dialect."""

from __future__ import annotations

import asyncio
import functools
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from gateway.body import Decoder, Pieces, decoder_for
from gateway.dialects import Speech
from gateway.errors import UpstreamBroken
from gateway.exchange import Headers, Wire
from gateway.head import Head
from gateway.settings import Upstream
from gateway.upstream import Connection, Pool, Watch

LARGE = 16 * 1024
"""A body of more bytes is not copied behind its head."""


class Reply(Protocol):
    """What both lanes hand to the relay."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Headers: ...

    @property
    def complete(self) -> bool:
        """Whether everything has arrived."""

    def arrived(self) -> bytes | None:
        """What has arrived when that is all there is, without waiting; else None: ask :meth:`next`."""

    async def next(self) -> bytes:
        """What has arrived since; ``b""`` at the end. Raises UpstreamFailed."""

    def release(self) -> None:
        """Done with it, whole or not."""


async def read_whole(reply: Reply, limit: int) -> bytes:
    """The body of a reply. Raises UpstreamBroken when it is longer than ``limit`` bytes."""
    pieces: list[bytes] = []
    size = 0
    while piece := await reply.next():
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise UpstreamBroken(f"The upstream's reply is longer than {limit} bytes.", started=True)
    return b"".join(pieces)


class _Line:
    """What is the same for every request to one target: the pool, and the head up to the fields of the request."""

    __slots__ = ("head", "host", "pool", "query")

    def __init__(self, pool: Pool, head: bytes, query: bytes) -> None:
        self.pool = pool
        self.head = head
        self.query = query


class WireLane:
    """Sends requests to upstreams and keeps the pools. One per worker and settings."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.watch = Watch(loop)
        self.pools: dict[tuple[str, str, int], Pool] = {}
        self._lines: dict[tuple[str, str], _Line] = {}

    def forget_lines(self) -> None:
        """After a reload: addresses and keys may be new. Connections stay."""
        self._lines.clear()

    def close(self) -> None:
        """Close what is idle and stop the watch."""
        for pool in self.pools.values():
            pool.close()
        self.watch.stop()

    def send(
        self,
        upstream: Upstream,
        speech: Speech,
        body: Pieces,
        asked: Head,
        on_quiet: Callable[[], None] | None,
        quiet: float,
    ) -> Awaitable[Connection]:
        """Send ``body``, which comes in pieces, and wait until the reply's head is there. Raises UpstreamFailed. See
        :func:`opened`."""
        line = self._lines.get((upstream.name, speech.path))
        if line is None:
            line = self._lines[upstream.name, speech.path] = self._line_to(upstream, speech.wire, speech.path, "POST")
        head = line.head
        if asked.query or line.query:
            full = b"&".join(filter(None, (line.query, asked.query)))
            head = head.replace(b" HTTP/1.1\r\n", b"?%b HTTP/1.1\r\n" % full, 1)
        length = 0
        for piece in body:
            length += len(piece)
        head = b"%b%b\r\ncontent-length: %d\r\n\r\n" % (head, asked.forwarded, length)
        message = b"".join((head, *body)) if length <= LARGE else (head, *body)
        return line.pool.request(message, upstream.timeouts, on_quiet=on_quiet, quiet=quiet)

    async def get(self, upstream: Upstream, path: str) -> Reply:
        """Ask an upstream for something below its base URL. Raises UpstreamFailed."""
        line = self._line_to(upstream, upstream.wire, path, "GET")
        return await line.pool.request(line.head + b"\r\n\r\n", upstream.timeouts)

    def _line_to(self, upstream: Upstream, wire: Wire, path_below: str, method: str) -> _Line:
        parts = urlsplit(upstream.base_url)
        tls = parts.scheme == "https"
        host = parts.hostname or ""
        port = parts.port or (443 if tls else 80)
        pool = self.pools.get((parts.scheme, host, port))
        if pool is None:
            pool = self.pools[parts.scheme, host, port] = Pool(self.watch, host, port, tls_context() if tls else None)
        path = parts.path.rstrip("/")
        if wire == "anthropic" and not path.endswith("/v1"):
            path += "/v1"
        path += quote(path_below, safe="/:@!$&'()*+,;=-._~%")
        fields = {"host": parts.netloc.rpartition("@")[2], "accept-encoding": "identity"}
        if method == "POST":
            fields["content-type"] = "application/json"
        if upstream.api_key and wire == "anthropic":
            fields["x-api-key"] = upstream.api_key
        elif upstream.api_key:
            fields["authorization"] = f"Bearer {upstream.api_key}"
        if wire == "anthropic":
            fields.setdefault("anthropic-version", "2023-06-01")
        fields |= {name.lower(): value for name, value in upstream.headers}
        head = f"{method} {path or '/'} HTTP/1.1" + "".join(f"\r\n{name}: {value}" for name, value in fields.items())
        return _Line(pool, head.encode("latin-1"), parts.query.encode())


@functools.cache
def tls_context() -> ssl.SSLContext:
    """Verifies names and chains against the system's authorities (``SSL_CERT_FILE`` counts), else certifi's."""
    context = ssl.create_default_context()
    if not context.get_ca_certs() and not context.cert_store_stats()["x509_ca"]:
        import certifi

        context.load_verify_locations(certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context


def opened(reply: Connection | TranslatedReply) -> Reply:
    """The reply; one that an upstream compressed will be opened as it comes."""
    if type(reply) is not Connection:
        return reply
    encoding = dict(reply.headers).get(b"content-encoding")
    decoder = None if encoding is None else decoder_for(encoding.strip().lower())
    return reply if decoder is None else OpenedReply(reply, decoder)


class OpenedReply:
    """A compressed reply, opened as it comes (we ask for none, but some upstreams compress anyway)."""

    def __init__(self, connection: Connection, decoder: Decoder) -> None:
        self._connection = connection
        self._decoder = decoder
        self.status = connection.status
        self.headers: Headers = [pair for pair in connection.headers if pair[0] != b"content-encoding"]
        self.complete = False

    def arrived(self) -> None:
        pass

    async def next(self) -> bytes:
        try:
            while data := await self._connection.next():
                if opened := b"".join(self._decoder.feed(data)):
                    return opened
        except (zlib.error, ValueError):
            raise UpstreamBroken("The upstream's reply is not validly compressed.", started=True) from None
        if not self._decoder.finished():
            raise UpstreamBroken("The upstream's compressed reply is not whole.", started=True)
        self.complete = True
        return b""

    def release(self) -> None:
        self._connection.release()


class TranslatedReply:
    """The translate lane's reply in the same shape."""

    def __init__(self, status: int, headers: Headers, chunks: AsyncIterator[bytes]) -> None:
        self.status = status
        self.headers = headers
        self.complete = False
        self._chunks = chunks
        self._closing: asyncio.Task[Any] | None = None

    def arrived(self) -> None:
        pass

    async def next(self) -> bytes:
        async for chunk in self._chunks:
            if chunk:
                return chunk
        self.complete = True
        return b""

    def release(self) -> None:
        aclose = getattr(self._chunks, "aclose", None)
        if aclose is not None and not self.complete:
            self._closing = asyncio.ensure_future(aclose())
