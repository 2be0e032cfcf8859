"""Heads that are met again, bodies that are framed without the parser, and errands."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from rig import HELLO, Request, Wires, completion, door, settings_for, upstream

from gateway.dialects import BY_PATH
from gateway.errand import Errand, in_task, parked, running, wake
from gateway.head import Head, KnownHead

RAW = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-caller\r\ncontent-type: application/json\r\n"  # noqa: E501
AFTER = b"x-end: 1\r\n"


def asking(text: str, after: bytes = b"") -> bytes:
    body = json.dumps({**HELLO, "messages": [{"role": "user", "content": text}]}).encode()
    return RAW + b"Content-Length: %d\r\n" % len(body) + after + b"\r\n" + body


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, Any]:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    length = int(dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:-2])[b"content-length"])
    return int(head.split()[1]), json.loads(await reader.readexactly(length))


async def echo(request: Request, wires: Wires) -> None:
    await wires.reply(completion(request.json["messages"][-1]["content"]))


def said(reply: Any) -> str:
    return str(reply["choices"][0]["message"]["content"])


@pytest.mark.parametrize("after", [b"", AFTER])
@pytest.mark.parametrize("step", [1_000_000, 150, 7])
async def test_one_connection_with_one_head_and_many_bodies(tmp_path: Path, after: bytes, step: int) -> None:
    async with upstream(echo) as up, door(settings_for(tmp_path, up)) as gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
        for text in ("a", "b" * 5, "c" * 300, "d", ""):
            request = asking(text, after)
            for at in range(0, len(request), step):
                writer.write(request[at : at + step])
                if step < 1000:
                    await asyncio.sleep(0.001)
            status, reply = await answer_of(reader)
            assert (status, said(reply)) == (200, text)
        connection: Any = next(iter(gate.server.server_state.connections))
        assert (connection._known is not None) == (step > 7)
        writer.close()


async def test_a_known_head_with_a_long_body_and_the_next_request_behind_it(tmp_path: Path) -> None:
    async with upstream(echo) as up, door(settings_for(tmp_path, up)) as gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
        writer.write(asking("first"))
        assert said((await answer_of(reader))[1]) == "first"
        writer.write(asking("x" * 700_000) + asking("next") + asking("last"))
        assert said((await answer_of(reader))[1]) == "x" * 700_000
        assert [said((await answer_of(reader))[1]) for _ in range(2)] == ["next", "last"]
        writer.write(asking("one") + asking("two"))
        assert [said((await answer_of(reader))[1]) for _ in range(2)] == ["one", "two"]
        writer.close()


async def test_what_is_refused_stays_refused_when_its_head_is_known(tmp_path: Path) -> None:
    limits = {"max_body_bytes": 2000}
    async with upstream(echo) as up, door(settings_for(tmp_path, up, gateway=limits)) as gate:
        for request, expected in (
            (asking("y" * 3000), 413),
            (RAW + b"Content-Length: 5000000000\r\n\r\n{", 413),
            (RAW + b"Content-Length: 0\r\n\r\n", 400),
            (RAW + b"Content-Length: 12x\r\n\r\n", 400),
            (RAW + b"Content-Length: -1\r\n\r\n", 400),
            (RAW + b"Content-Length: \r\n\r\n", 400),
            (RAW + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n", 400),
            (RAW + b"Content-Length: 2\r\ncontent-length: 3\r\n\r\n{}", 400),
            (RAW + b"Content-Length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}", 400),
            (RAW.replace(b"sk-caller", b"sk-nobody") + b"Content-Length: 2\r\n\r\n{}", 401),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
            for _ in range(2):
                writer.write(asking("fine"))
                assert (await answer_of(reader))[0] == 200
            writer.write(request)
            status, reply = await answer_of(reader)
            assert status == expected, request
            assert set(reply["error"]) == {"message", "type", "param", "code"}
            writer.close()


async def test_a_key_that_is_gone_no_longer_opens_by_a_known_head(tmp_path: Path) -> None:
    async with upstream(echo) as up, door(settings_for(tmp_path, up)) as gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
        for _ in range(2):
            writer.write(asking("fine"))
            assert (await answer_of(reader))[0] == 200
        gate.worker.keys._by_digest.clear()
        writer.write(asking("fine"))
        assert (await answer_of(reader))[0] == 401
        writer.close()


async def test_heads_that_never_come_again_are_not_learned_for_ever(tmp_path: Path) -> None:
    async with upstream(echo) as up, door(settings_for(tmp_path, up)) as gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
        for number in range(8):
            writer.write(asking("fine", b"x-request: %d\r\n" % number))
            assert (await answer_of(reader))[0] == 200
        connection: Any = next(iter(gate.server.server_state.connections))
        assert connection._learned == 4
        writer.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\nx: 1",
        b"POST / HTTP/1.1\r\nhost: x\r\nx: 1\r\n\r\n",
        b"POST / HTTP/1.1\ncontent-length: 1\r\nx: 1\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\nx: 1\n\nabc\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\nx: 1\r\n folded\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\nContent-Length: 1\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\nexpect: 100-continue\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\nx: " + b"y" * 9000 + b"\r\n\r\n",
    ],
)
def test_heads_that_are_not_learned(raw: bytes) -> None:
    fields = {b"expect": b"100-continue"} if b"expect" in raw else {}
    assert KnownHead.of(raw, BY_PATH["/v1/chat/completions"], Head("/", b"", fields), 2) is None


async def test_an_errand_runs_at_once_waits_parked_and_ends() -> None:
    loop = asyncio.get_running_loop()
    steps: list[Any] = []
    waiters: list[Any] = []

    async def work() -> None:
        steps.append("begun")
        waiters.append(parked(loop))
        await waiters[-1]
        steps.append("woken")
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        steps.append(running.errand is not None)
        await in_task()
        steps.append(asyncio.current_task() is not None and running.errand is None)
        waiters.append(parked(loop))
        loop.call_soon(wake, waiters[-1])
        await waiters[-1]
        await in_task()
        steps.append("end")

    ended = loop.create_future()
    errand = Errand(loop, work(), lambda: ended.set_result(None))
    errand.resume()
    assert steps == ["begun"]
    wake(waiters[0])
    assert steps == ["begun", "woken"]
    await ended
    assert steps == ["begun", "woken", True, True, "end"]
    assert running.errand is None
    errand.cancel()
    await asyncio.sleep(0.01)


@pytest.mark.parametrize("where", ["parked", "future", "sleep", "task", "done future", "woken"])
async def test_an_errand_is_cancelled_where_it_waits(where: str) -> None:
    loop = asyncio.get_running_loop()
    ends: list[str] = []
    waiters: list[Any] = []
    future = loop.create_future()

    async def work() -> None:
        try:
            if where in ("parked", "woken"):
                waiters.append(parked(loop))
                await waiters[0]
                if where == "woken":
                    await asyncio.sleep(5)
            elif where in ("future", "done future"):
                await future
                await asyncio.sleep(5)
            elif where == "sleep":
                while True:
                    await asyncio.sleep(0)
            else:
                await in_task()
                await asyncio.sleep(5)
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # may wait for its last words
            ends.append("cancelled")
            raise

    errand = Errand(loop, work(), lambda: ends.append("ended"))
    errand.resume()
    if where == "task":
        await asyncio.sleep(0.01)
    if where == "done future":
        future.set_result(None)
    errand.cancel()
    if where == "woken":
        wake(waiters[0])
    await asyncio.sleep(0.02)
    assert ends == ["cancelled", "ended"]
