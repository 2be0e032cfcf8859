"""A caller who sends too much reads the reply that says so, however much is still under way."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from rig import completion, door, settings_for, upstream

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-caller\r\ncontent-type: application/json\r\n"  # noqa: E501
PIECE = b"x" * 65_536


def blocking_caller(port: int, begin: bytes, piece: bytes, pieces: int) -> bytes:
    """What a caller reads who writes everything first, as most clients do."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as wire:
        wire.sendall(begin)
        for _ in range(pieces):
            wire.sendall(piece)
        wire.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: wire.recv(65_536), b""))


@pytest.mark.parametrize("chunked", [False, True])
async def test_too_long_a_body_is_sent_to_its_end_and_the_refusal_read(tmp_path: Path, chunked: bool) -> None:
    async with upstream(completion("never")) as up, door(settings_for(tmp_path, up)) as gate:
        pieces = 1024  # 64 MiB
        if chunked:
            begin, piece = HEAD + b"transfer-encoding: chunked\r\n\r\n", b"%x\r\n%b\r\n" % (len(PIECE), PIECE)
        else:
            begin, piece = HEAD + b"content-length: %d\r\n\r\n" % (pieces * len(PIECE)), PIECE
        reply = await asyncio.to_thread(blocking_caller, gate.port, begin, piece, pieces - 40)
        assert reply.startswith(b"HTTP/1.1 413 "), reply[:200]
        assert reply.endswith(b"}") and reply.count(b"HTTP/1.1") == 1
        await asyncio.sleep(0.05)
        assert not gate.server.server_state.connections
        assert not up.requests


async def test_a_head_without_end_is_answered(tmp_path: Path) -> None:
    async with upstream(completion("never")) as up, door(settings_for(tmp_path, up)) as gate:
        reply = await asyncio.to_thread(blocking_caller, gate.port, HEAD, b"x-more: " + b"y" * 8_000 + b"\r\n", 500)
        assert reply.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 ")), reply[:200]


async def test_whoever_goes_on_sending_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.lingering.MOST", 1_000_000)
    async with upstream(completion("never")) as up, door(settings_for(tmp_path, up)) as gate:
        _, writer = await asyncio.open_connection("127.0.0.1", gate.port)
        writer.write(HEAD + b"content-length: 900000000\r\n\r\n")

        async def for_ever() -> None:
            while True:
                writer.write(PIECE)
                await writer.drain()

        with pytest.raises(OSError):
            await asyncio.wait_for(for_ever(), 5)
        assert not gate.server.server_state.connections
