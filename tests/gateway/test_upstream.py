"""Our HTTP/1.1 client against real servers on loopback, most of which misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig import chunk

from gateway.errors import ConnectFailed, UpstreamBroken, UpstreamFailed, UpstreamTimeout
from gateway.upstream import HIGH_WATER, MAX_HEAD, Connection, Pool, Timeouts, Watch
from gateway.wire import read_whole

GET = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
QUICK = Timeouts(connect=1.0, first_token=0.3, between_chunks=0.3, total=1.0)
SLOW = Timeouts()

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.accepted = 0
        self.gone = asyncio.Event()


@contextlib.asynccontextmanager
async def peer(
    handler: Handler, *, tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None, **how: float
) -> AsyncIterator[Peer]:
    """A server that hands every connection to ``handler``, and a pool that points at it."""
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            found.gone.set()
            writer.transport.abort()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls[0] if tls else None)
    watch = Watch(asyncio.get_running_loop())
    host = "localhost" if tls else "127.0.0.1"
    pool = Pool(watch, host, server.sockets[0].getsockname()[1], tls[1] if tls else None, **how)
    found = Peer(pool)
    try:
        yield found
    finally:
        for connection in list(watch.busy):
            connection.close()
        pool.close()
        watch.stop()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def asked(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def says(*pieces: bytes, pause: float = 0.0, hold: bool = False) -> Handler:
    """Answers each request with these bytes, then closes (or keeps the connection)."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await asked(reader)
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause)
            if not hold:
                with contextlib.suppress(ConnectionError):
                    writer.close()
                    await writer.wait_closed()
                return

    return handler


async def fetch(pool: Pool, timeouts: Timeouts = SLOW, message: bytes = GET) -> tuple[int, bytes]:
    connection = await pool.request(message, timeouts)
    try:
        return connection.status, await read_whole(connection, 10**8)
    finally:
        connection.release()


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (OK, (200, b"ok")),
        (CHUNKED + chunk(b"ab") + chunk(b"cd") + b"0\r\n\r\n", (200, b"abcd")),
        (CHUNKED + b"2;ext=1\r\nab\r\n0\r\nx-trailer: 1\r\n\r\n", (200, b"ab")),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"")),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", (304, b"")),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, (200, b"ok")),
        (b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + OK, (200, b"ok")),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", (200, b"until the end")),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end", (200, b"until the end")),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", (200, b"")),
        (b"HTTP/1.1 529 \r\ncontent-length: 1\r\n\r\nx", (529, b"x")),
    ],
)
@pytest.mark.parametrize("split", [False, True])
async def test_replies_are_read_whole_however_they_are_framed(
    reply: bytes, expected: tuple[int, bytes], split: bool
) -> None:
    pieces = [reply[at : at + 1] for at in range(len(reply))] if split else [reply]
    async with peer(says(*pieces)) as server:
        assert await fetch(server.pool) == expected


async def test_header_fields_come_in_order_in_lower_case_without_trailers() -> None:
    reply = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Trailer: t\r\n\r\n"
    async with peer(says(reply)) as server:
        connection = await server.pool.request(GET, SLOW)
        await read_whole(connection, 10)
        assert connection.headers == [(b"x-a", b"1"), (b"x-a", b"2"), (b"transfer-encoding", b"chunked")]
        connection.release()


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc",
        CHUNKED + b"5\r\nabc",
        CHUNKED + chunk(b"abc"),
        b"SSH-2.0-OpenSSH_9\r\n",
        b"<html>Bad Gateway</html>",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        CHUNKED + b"zz\r\nab\r\n",
        CHUNKED + b"2\r\nabXX",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nraw",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * (MAX_HEAD + 70_000),
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
async def test_what_is_broken_raises(reply: bytes) -> None:
    async with peer(says(reply)) as server:
        with pytest.raises(UpstreamBroken):
            await fetch(server.pool)
        assert server.pool.idle == []
        assert not server.pool.watch.busy
        assert server.accepted == 1  # a fresh connection that fails is not tried again


async def test_what_came_before_a_cut_is_given_first() -> None:
    async with peer(says(CHUNKED + chunk(b"abc"), pause=0.05)) as server:
        connection = await server.pool.request(GET, SLOW)
        assert await connection.next() == b"abc"
        with pytest.raises(UpstreamBroken) as cut:
            await connection.next()
        assert cut.value.started
        connection.release()


async def test_a_reset_is_a_cut_even_without_declared_length() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nabc")
        await writer.drain()
        await asyncio.sleep(0.05)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(1, 13, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # SO_LINGER 0: the close is a reset
        writer.transport.abort()

    async with peer(handler) as server:
        connection = await server.pool.request(GET, SLOW)
        assert await connection.next() == b"abc"
        with pytest.raises(UpstreamBroken):
            await connection.next()
        connection.release()


# --- the pool --------------------------------------------------------------------------------------------------------


async def test_connections_are_used_again() -> None:
    async with peer(says(OK, hold=True)) as server:
        for _ in range(5):
            assert await fetch(server.pool) == (200, b"ok")
        assert server.accepted == 1
        assert len(server.pool.idle) == 1
        await asyncio.gather(*(fetch(server.pool) for _ in range(4)))
        assert server.accepted == 4


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
        OK + b"and more that nobody asked for",
        OK + OK,
    ],
)
async def test_what_cannot_be_used_again_is_not(reply: bytes) -> None:
    async with peer(says(reply, hold=True)) as server:
        assert (await fetch(server.pool))[0] == 200
        assert (await fetch(server.pool))[1] == b"ok"
        assert server.accepted == 2


async def test_bytes_on_an_idle_connection_close_it() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(OK)
        await asyncio.sleep(0.1)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison")
        await asked(reader)
        writer.write(OK)

    async with peer(handler) as server:
        assert await fetch(server.pool) == (200, b"ok")
        await asyncio.sleep(0.2)
        assert all(connection.closed for connection in server.pool.idle)
        assert await fetch(server.pool) == (200, b"ok")
        assert server.accepted == 2


async def test_a_stale_connection_is_replaced_once_when_nothing_came_back() -> None:
    count = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        await asked(reader)
        count += 1
        writer.write(OK)
        if count == 1:
            await asked(reader)  # takes the next request and hangs up without a word
            return
        await asked(reader)

    async with peer(handler) as server:
        assert await fetch(server.pool) == (200, b"ok")
        assert await fetch(server.pool) == (200, b"ok")
        assert (server.accepted, count) == (2, 2)


async def test_a_stale_connection_is_not_replaced_when_something_came_back() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(OK)
        await asked(reader)
        writer.write(b"HTTP/1.1 2")
        await writer.drain()

    async with peer(handler) as server:
        assert await fetch(server.pool) == (200, b"ok")
        with pytest.raises(UpstreamBroken):
            await fetch(server.pool)
        assert server.accepted == 1


async def test_idle_connections_are_closed_in_time() -> None:
    async with peer(says(OK, hold=True), keep_alive=0.1) as server:
        await fetch(server.pool)
        await asyncio.sleep(0.25)
        assert server.pool.idle == []
        await asyncio.wait_for(server.gone.wait(), 1)
        await fetch(server.pool)
        assert server.accepted == 2


async def test_the_number_of_idle_connections_is_bounded() -> None:
    async with peer(says(OK, pause=0.02, hold=True), max_idle=3) as server:
        await asyncio.gather(*(fetch(server.pool) for _ in range(8)))
        assert len(server.pool.idle) == 3


# --- time ------------------------------------------------------------------------------------------------------------


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def test_first_token_timeout() -> None:
    async with peer(silent) as server:
        with pytest.raises(UpstreamTimeout) as late:
            await fetch(server.pool, QUICK)
        assert (late.value.phase, late.value.started, late.value.status) == ("first_token", False, 504)
        await asyncio.wait_for(server.gone.wait(), 1)


async def test_a_head_alone_is_no_first_token() -> None:
    async with peer(says(CHUNKED, pause=5)) as server:
        with pytest.raises(UpstreamTimeout) as late:
            await fetch(server.pool, QUICK)
        assert (late.value.phase, late.value.started) == ("first_token", True)


async def test_between_chunks_timeout() -> None:
    async with peer(says(CHUNKED + chunk(b"a"), chunk(b"b"), pause=0.5)) as server:
        with pytest.raises(UpstreamTimeout) as late:
            await fetch(server.pool, QUICK)
        assert late.value.phase == "between_chunks"


async def test_total_timeout_ends_a_trickle() -> None:
    async with peer(says(CHUNKED, *[chunk(b"a")] * 100, pause=0.05)) as server:
        with pytest.raises(UpstreamTimeout) as late:
            await fetch(server.pool, QUICK)
        assert late.value.phase == "total"
        await asyncio.wait_for(server.gone.wait(), 1)


async def test_connect_timeout_and_refusal() -> None:
    loop = asyncio.get_running_loop()
    watch = Watch(loop)
    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    listener.close()
    await listener.wait_closed()
    with pytest.raises(ConnectFailed):
        await fetch(Pool(watch, "127.0.0.1", port))
    with pytest.raises(UpstreamFailed):
        await fetch(Pool(watch, "no-such-host.invalid", 1), Timeouts(connect=2))


async def test_the_quiet_callback_comes_until_the_first_byte_of_the_body() -> None:
    calls = 0

    def quiet() -> None:
        nonlocal calls
        calls += 1

    async with peer(says(CHUNKED, chunk(b"a"), chunk(b"b") + b"0\r\n\r\n", pause=0.35)) as server:
        connection = await server.pool.request(GET, SLOW, on_quiet=quiet, quiet=0.1)
        assert await connection.next() == b"a"
        so_far = calls
        assert 1 <= so_far <= 4
        assert await connection.next() == b"b"
        assert calls == so_far
        connection.release()


# --- cancelling and back-pressure ------------------------------------------------------------------------------------


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200 OK\r\n", CHUNKED + chunk(b"a")])
async def test_cancelling_closes_the_connection_in_every_phase(reply: bytes) -> None:
    async with peer(says(reply, pause=30)) as server:
        task = asyncio.create_task(fetch(server.pool))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not server.pool.watch.busy
        assert server.pool.idle == []


async def test_a_slow_reader_stops_the_sender() -> None:
    sent = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await asked(reader)
        writer.write(CHUNKED)
        piece = chunk(b"x" * 65_536)
        for _ in range(1000):
            writer.write(piece)
            await writer.drain()
            sent += 65_536

    async with peer(handler) as server:
        connection = await server.pool.request(GET, Timeouts(between_chunks=0.2))
        await asyncio.sleep(0.5)  # longer than between_chunks: the reader is slow, not the upstream
        stopped = sent
        await asyncio.sleep(0.2)
        assert sent == stopped < 20 * 2**20
        assert connection._size < HIGH_WATER + 2**20
        got = 0
        while got < stopped:
            got += len(await connection.next())
        connection.release()


async def test_a_reply_that_is_too_long_is_refused() -> None:
    async with peer(says(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n" + b"x" * 100_000)) as server:
        connection = await server.pool.request(GET, SLOW)
        with pytest.raises(UpstreamBroken, match="longer than"):
            await read_whole(connection, 1000)
        connection.release()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4), st.booleans())
def test_no_bytes_from_an_upstream_cause_anything_but_a_failure(
    noise: bytes, cuts: list[int], after_head: bool
) -> None:
    data = (CHUNKED if after_head else b"") + noise
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    pieces = [data[a:b] for a, b in itertools.pairwise(places)]

    async def run() -> None:
        async with peer(says(*pieces)) as server:
            with contextlib.suppress(UpstreamFailed):
                await asyncio.wait_for(fetch(server.pool, QUICK), 3)
            assert not server.pool.watch.busy
        await asyncio.sleep(0.01)

    asyncio.run(run())


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate authority, and a certificate for ``localhost`` that it signed (valid, and expired)."""
    import datetime as dt

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("tls")
    now = dt.datetime.now(dt.UTC)
    authority = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Test authority")])

    def write(
        name: str, subject: x509.Name, public: object, days: int, *extensions: tuple[x509.ExtensionType, bool]
    ) -> None:
        builder = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)  # type: ignore[arg-type]
            .serial_number(x509.random_serial_number()).not_valid_before(now - dt.timedelta(days=9))
            .not_valid_after(now + dt.timedelta(days=days))
        )  # fmt: skip
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        signed = builder.sign(authority, hashes.SHA256())
        (folder / name).write_bytes(signed.public_bytes(serialization.Encoding.PEM))

    write("authority.pem", issuer, authority.public_key(), 9, (x509.BasicConstraints(ca=True, path_length=None), True),
          (x509.KeyUsage(False, False, False, False, False, True, True, False, False), True),
          (x509.SubjectKeyIdentifier.from_public_key(authority.public_key()), False))  # fmt: skip
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    marks = (x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), False)
    for name, days in (("good.pem", 9), ("expired.pem", -1)):
        write(name, x509.Name([]), key.public_key(), days, (names, True), marks)
    return folder


def contexts(folder: Path, certificate: str, *, trust: bool = True) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / certificate, folder / "key.pem")
    client = ssl.create_default_context(cafile=folder / "authority.pem") if trust else ssl.create_default_context()
    return server, client


async def test_tls(certificates: Path) -> None:
    body = b"x" * 300_000
    reply = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    async with peer(says(reply, hold=True), tls=contexts(certificates, "good.pem")) as server:
        assert await fetch(server.pool) == (200, body)
        assert await fetch(server.pool) == (200, body)
        assert server.accepted == 1


async def test_tls_cut_is_seen(certificates: Path) -> None:
    async with peer(says(CHUNKED + chunk(b"a")), tls=contexts(certificates, "good.pem")) as server:
        with pytest.raises(UpstreamBroken):
            await fetch(server.pool)


@pytest.mark.parametrize("wrong", ["untrusted", "expired", "name", "plain"])
async def test_tls_that_cannot_be_trusted_sends_nothing(certificates: Path, wrong: str) -> None:
    heard = b""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        heard += await reader.read(100)
        writer.transport.abort()

    server_side, client_side = contexts(
        certificates, "expired.pem" if wrong == "expired" else "good.pem", trust=wrong != "untrusted"
    )
    if wrong == "plain":
        server = await asyncio.start_server(listen, "127.0.0.1", 0)
    else:
        server = await asyncio.start_server(listen, "127.0.0.1", 0, ssl=server_side)
    port = server.sockets[0].getsockname()[1]
    pool = Pool(Watch(asyncio.get_running_loop()), "127.0.0.1" if wrong == "name" else "localhost", port, client_side)
    with pytest.raises(UpstreamFailed):
        await fetch(pool, Timeouts(connect=1.0))
    server.close()
    await asyncio.sleep(0.05)
    assert b"POST" not in heard


def test_the_default_context_verifies() -> None:
    from gateway.wire import tls_context

    context = tls_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.cert_store_stats()["x509_ca"] > 0


async def test_a_connection_is_a_slots_object() -> None:
    watch = Watch(asyncio.get_running_loop())
    assert not hasattr(Connection(Pool(watch, "h", 1)), "__dict__")
