"""The compatibility list, part two: bodies in transit, replies, streams and life (numbers are the list's)."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import brotli
import pytest
import zstandard
from rig import (
    AUTH,
    DONE,
    HELLO,
    Request,
    Wires,
    chunk,
    completion,
    delta,
    door,
    prompts,
    settings_for,
    upstream,
)

from gateway.exchange import Exchange
from registry import Deployment, ServedVersion

CARE = prompts("Be careful.", name="global", parent=None)
STREAM = {**HELLO, "stream": True}
RAW = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-caller\r\ncontent-type: application/json\r\n"  # noqa: E501
BODY = json.dumps(HELLO).encode()


class Seen:
    """Neighbours that remember what they are told."""

    def __init__(self, gate: Any) -> None:
        self.exchanges: list[Exchange] = []
        gate.worker.pipeline.neighbours.metrics = self

    def observe(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)


def quick(up: Any, **timeouts: float) -> dict[str, Any]:
    return {"name": "up", "base_url": up.url, "api_key": "k", "timeouts": {"connect": 1.0, **timeouts}}


async def until(condition: Any, seconds: float = 2.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        await asyncio.sleep(0.01)


# --- bodies ----------------------------------------------------------------------------------------------------------


async def test_d18_body_cap_on_every_way_in(tmp_path: Path) -> None:
    big = json.dumps({**HELLO, "x": "y" * 5000}).encode()
    async with upstream() as up, door(settings_for(tmp_path, up, gateway={"max_body_bytes": 4096})) as gate:
        status, _, reply = await gate.ask(big)
        assert (status, reply["error"]["code"]) == (413, "request_too_large")
        chunked = RAW + b"transfer-encoding: chunked\r\n\r\n" + chunk(big[:3000]) + chunk(big[3000:]) + b"0\r\n\r\n"
        got = await gate.raw(chunked)
        assert got.startswith(b"HTTP/1.1 413 ")
        assert b'"error"' in got
        assert b"connection: close" in got
        status, _, reply = await gate.ask(gzip.compress(big * 1000), content_encoding="gzip")
        assert (status, reply["error"]["code"]) == (413, "request_too_large")
        status, _, reply = await gate.ask(big, "/v1/messages")
        assert (status, reply["error"]["type"]) == (413, "request_too_large")
        assert up.requests == []
        assert (await gate.ask())[0] == 200


async def test_d18_a_bomb_in_chunks_is_cut_at_the_cap(tmp_path: Path) -> None:
    bomb = gzip.compress(json.dumps({**HELLO, "x": "y" * 50_000_000}).encode())
    head = RAW + b"content-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n"
    pieces = b"".join(chunk(bomb[at : at + 1000]) for at in range(0, len(bomb), 1000))
    async with upstream() as up, door(settings_for(tmp_path, up, gateway={"max_body_bytes": 1 << 20})) as gate:
        tracemalloc.start()
        try:
            got = await gate.raw(head + pieces + b"0\r\n\r\n")
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()
        assert got.startswith(b"HTTP/1.1 413 ")
        assert json.loads(got.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_too_large"
        small = gzip.compress(BODY)
        got = await gate.raw(head + chunk(small[:20]) + chunk(small[20:]) + b"0\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 200 ")
        assert up.last.body == BODY


PACKED = {
    "gzip": gzip.compress,
    "br": brotli.compress,
    "deflate": zlib.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize(("name", "pack"), PACKED.items())
async def test_d19_compressed_requests_are_opened(tmp_path: Path, name: str, pack: Any) -> None:
    async with upstream() as up, door(settings_for(tmp_path, up), CARE) as gate:
        assert (await gate.ask(pack(BODY), content_encoding=name))[0] == 200
        assert up.last.json["messages"][1] == HELLO["messages"][0]
        assert b"content-encoding" not in up.last.headers
        assert (await gate.ask(pack(BODY)[:-5], content_encoding=name))[0] == 400
        assert (await gate.ask(BODY, content_encoding="compress"))[0] == 415


async def test_d20_chunked_requests_and_expect_continue(tmp_path: Path) -> None:
    async with upstream() as up, door(settings_for(tmp_path, up)) as gate:
        pieces = b"".join(chunk(BODY[at : at + 7]) for at in range(0, len(BODY), 7))
        got = await gate.raw(RAW + b"transfer-encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 200 ")
        assert up.last.body == BODY
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
        writer.write(RAW + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(BODY))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.close()


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        b"content-length: 5\r\ncontent-length: 6\r\n",
        b"content-length: -1\r\n",
        b"content-length: 1e3\r\n",
        b"content-length: +5\r\n",
        b"transfer-encoding: gzip\r\n",
        b"transfer-encoding: chunked, identity\r\n",
        b"bad header\r\n",
        b"x: a\r\n\x00y: b\r\n",
    ],
)
async def test_d20_ambiguous_or_broken_framing_is_refused(tmp_path: Path, head: bytes) -> None:
    async with upstream() as up, door(settings_for(tmp_path, up)) as gate:
        got = await gate.raw(RAW + head + b"\r\n0\r\n\r\nGET /v1/models HTTP/1.1\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 400 "), got
        assert json.loads(got.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"
        assert got.count(b"HTTP/1.1") == 1
        assert up.requests == []


@pytest.mark.parametrize(
    "noise", [b"\x16\x03\x01\x02\x00\x01\x00", b"HELO\r\n\r\n", b"GET\r\n\r\n", b"POST  HTTP/9.9\r\n\r\n"]
)
async def test_what_is_not_http_gets_a_json_error(tmp_path: Path, noise: bytes) -> None:
    async with upstream() as up, door(settings_for(tmp_path, up)) as gate:
        got = await gate.raw(noise)
        assert got.startswith(b"HTTP/1.1 400 ")
        assert json.loads(got.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"


async def test_a_broken_chunk_in_the_body_gets_a_json_error(tmp_path: Path) -> None:
    async with upstream() as up, door(settings_for(tmp_path, up)) as gate:
        got = await gate.raw(RAW + b"transfer-encoding: chunked\r\n\r\nzz\r\nno\r\n")
        assert got.startswith(b"HTTP/1.1 400 ")
        assert b'"error"' in got


async def test_a_long_head_is_refused(tmp_path: Path) -> None:
    async with upstream() as up, door(settings_for(tmp_path, up)) as gate:
        got = await gate.raw(RAW + b"x: " + b"y" * 200_000)
        assert got.startswith(b"HTTP/1.1 431 ")


async def test_a_long_head_behind_a_request_in_progress_ends_the_connection(tmp_path: Path) -> None:
    async def waits(request: Request, wires: Wires) -> None:
        await asyncio.sleep(30)

    async with upstream(waits) as up, door(settings_for(tmp_path, up)) as gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
        writer.write(RAW + b"content-length: %d\r\n\r\n" % len(BODY) + BODY)
        await until(lambda: up.requests)
        with contextlib.suppress(ConnectionError):
            for number in range(40):
                writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nx: " if number == 0 else b"y" * 10_000)
                await writer.drain()
                await asyncio.sleep(0.005)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 2) == b""
        await until(lambda: gate.worker.pipeline.in_flight == 0)
        writer.close()


async def test_slow_senders_are_refused(tmp_path: Path) -> None:
    async with upstream() as up, door(settings_for(tmp_path, up)) as gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
        writer.write(RAW + b"content-length: 100\r\n\r\n{")
        await asyncio.sleep(0.1)
        for connection in list(gate.server.server_state.connections):
            connection.sweep(asyncio.get_running_loop().time() + 60)
        got = await reader.read(4096)
        assert got.startswith(b"HTTP/1.1 408 ")
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
        writer.write(b"POST /v1/chat")
        await asyncio.sleep(0.1)
        for connection in list(gate.server.server_state.connections):
            connection.sweep(asyncio.get_running_loop().time() + 60)
        assert (await reader.read(4096)).startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_d24_idempotency_key_reaches_the_recorder(tmp_path: Path) -> None:
    async with upstream() as up, door(settings_for(tmp_path, up)) as gate:
        seen = Seen(gate)
        await gate.ask(idempotency_key="abc", x_stainless_retry_count="1")
        assert seen.exchanges[0].idempotency_key == b"abc"


# --- replies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 529])
async def test_d29_errors_of_the_upstream_are_passed_on(tmp_path: Path, status: int) -> None:
    body = b'{ "error": {"message":"m","type":"t","param":null,"code":"c","unknown":[1.0]} }'

    async def fail(request: Request, wires: Wires) -> None:
        await wires.reply(body, status, "retry-after: 7\r\nx-should-retry: false\r\n")

    async with upstream(fail) as up, door(settings_for(tmp_path, up)) as gate:
        for ask in (HELLO, STREAM):
            async with gate.post(ask) as reply:
                assert reply.status == status
                assert await reply.read() == body
                assert reply.headers["retry-after"] == "7"
                assert reply.headers["x-should-retry"] == "false"
        assert len(up.requests) == 2  # with one target nothing is retried: the caller's SDK does that


async def test_d30_every_error_of_ours_has_all_four_keys(tmp_path: Path) -> None:
    async with upstream() as up, door(settings_for(tmp_path, up)) as gate:
        for body, path in [
            (b"{", "/v1/chat/completions"),
            ({"model": "m"}, "/v1/chat/completions"),
            ({}, "/v1/responses"),
        ]:
            status, _, reply = await gate.ask(body, path)
            assert status == 400
            assert set(reply["error"]) == {"message", "type", "param", "code"}


async def test_d31_overload_is_shed_at_once_with_a_small_retry_after(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def wait(request: Request, wires: Wires) -> None:
        await release.wait()
        await wires.reply(completion())

    async with upstream(wait) as up, door(settings_for(tmp_path, up, gateway={"max_in_flight": 2})) as gate:
        held = [asyncio.create_task(gate.ask()) for _ in range(2)]
        await until(lambda: len(up.requests) == 2)
        began = time.monotonic()
        status, headers, reply = await gate.ask()
        assert time.monotonic() - began < 1
        assert (status, reply["error"]["code"]) == (429, "overloaded")
        assert 0 < int(headers["retry-after"]) <= 5
        release.set()
        assert [answer[0] for answer in await asyncio.gather(*held)] == [200, 200]
        assert (await gate.ask())[0] == 200


async def test_d32_headers_of_the_provider_are_forwarded(tmp_path: Path) -> None:
    told = {"x-request-id": "req_1", "x-ratelimit-remaining-requests": "9", "retry-after-ms": "12", "openai-processing-ms": "3",  # noqa: E501
            "openai-organization": "o", "openai-version": "2020-10-01"}  # fmt: skip
    hidden = "set-cookie: a=b\r\nalt-svc: h3\r\nserver: cf\r\nx-metaspo-domain: forged\r\nkeep-alive: timeout=5\r\n"

    async def reply(request: Request, wires: Wires) -> None:
        await wires.reply(completion(), headers="".join(f"{n}: {v}\r\n" for n, v in told.items()) + hidden)

    async with upstream(reply) as up, door(settings_for(tmp_path, up), CARE) as gate, gate.post() as got:
        assert {name: got.headers[name] for name in told} == told
        assert not {"set-cookie", "alt-svc", "keep-alive"} & {name.lower() for name in got.headers}
        assert got.headers.getall("x-metaspo-domain") == ["global"]
        assert got.headers["x-metaspo-exchange"]
        assert got.headers.getall("content-length")


# --- streams ---------------------------------------------------------------------------------------------------------


async def test_d33_d34_streams_pass_byte_for_byte(tmp_path: Path) -> None:
    events = [delta("é\u2028"), b": ping\n\n", b"data: {\r\ndata: }\r\n\r\n", delta("x", "stop"), DONE]
    whole = b"".join(events)

    async def reply(request: Request, wires: Wires) -> None:
        await wires.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for at in range(0, len(whole), 11):  # cuts through events and through characters
            await wires.send(chunk(whole[at : at + 11]), pause=0.001)
        await wires.send(b"0\r\n\r\n")

    async with upstream(reply) as up, door(settings_for(tmp_path, up), CARE) as gate, gate.post(STREAM) as got:
        assert await got.read() == whole
        assert got.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert got.headers["cache-control"] == "no-cache"
        assert got.headers["x-accel-buffering"] == "no"
        assert "content-length" not in got.headers
        assert up.last.json["stream"] is True


USAGE = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'


async def test_d35_usage_chunks(tmp_path: Path) -> None:
    async def reply(request: Request, wires: Wires) -> None:
        asked = (request.json.get("stream_options") or {}).get("include_usage")
        await wires.stream(delta("a"), delta("b", "stop"), *([USAGE] if asked else []), DONE)

    keys = [{"name": "app", "role": "caller", "key": "sk-caller", "tokens_per_minute": 1_000_000}]
    async with upstream(reply) as up, door(settings_for(tmp_path, up, keys=keys), CARE) as gate:
        seen = Seen(gate)
        async with gate.post(STREAM) as got:  # this key's tokens are limited: we ask, the caller does not see it
            assert await got.read() == delta("a") + delta("b", "stop") + DONE
        assert up.last.json["stream_options"] == {"include_usage": True}
        assert seen.exchanges[0].usage is not None
        assert (seen.exchanges[0].usage.prompt_tokens, seen.exchanges[0].usage.answer_tokens) == (7, 3)
        for options in ({"include_usage": True}, {"include_usage": True, "include_obfuscation": False}):
            async with gate.post({**STREAM, "stream_options": options}) as got:
                assert USAGE in await got.read()
            assert up.last.json["stream_options"] == options
        async with gate.post({**STREAM, "stream_options": {"include_usage": False}}) as got:
            assert b"usage" not in await got.read()
        async with gate.post({**STREAM, "stream_options": {"include_obfuscation": False}}) as got:
            assert b"usage" not in await got.read()
        assert up.last.json["stream_options"] == {"include_usage": True, "include_obfuscation": False}


async def test_d35_usage_is_not_asked_for_without_need(tmp_path: Path) -> None:
    async def reply(request: Request, wires: Wires) -> None:
        await wires.stream(delta("a", "stop"), DONE)

    async with upstream(reply) as up, door(settings_for(tmp_path, up), CARE) as gate, gate.post(STREAM) as got:
        await got.read()
        assert "stream_options" not in up.last.json


async def test_d36_obfuscation_passes(tmp_path: Path) -> None:
    event = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"obfuscation":"xY"}\n\n'

    async def reply(request: Request, wires: Wires) -> None:
        await wires.stream(event, DONE)

    async with upstream(reply) as up, door(settings_for(tmp_path, up), CARE) as gate, gate.post(STREAM) as got:
        assert await got.read() == event + DONE


async def test_d37_failure_before_the_first_byte_has_a_real_status(tmp_path: Path) -> None:
    async def cut(request: Request, wires: Wires) -> None:
        wires.cut()

    async def half(request: Request, wires: Wires) -> None:
        await wires.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n", pause=0.05
        )
        wires.cut()

    for behave in (cut, half):
        async with upstream(behave) as up, door(settings_for(tmp_path, up)) as gate:
            for ask in (HELLO, STREAM):
                status, _, reply = await gate.ask(ask)
                assert (status, reply["error"]["code"]) == (502, "upstream_error")
                assert "127.0.0.1" not in json.dumps(reply)
            status, _, reply = await gate.ask(STREAM, "/v1/responses")
            assert (status, reply["error"]["type"]) == (502, "server_error")


async def test_d37_connection_refused_and_timeouts(tmp_path: Path) -> None:
    async def wait(request: Request, wires: Wires) -> None:
        await asyncio.sleep(30)

    async with upstream(wait) as up, door(settings_for(tmp_path, quick(up, first_token=0.2))) as gate:
        seen = Seen(gate)
        status, _, reply = await gate.ask()
        assert (status, reply["error"]["code"]) == (504, "upstream_timeout")
        assert seen.exchanges[0].ending == "timeout"
        await asyncio.wait_for(up.lost.wait(), 1)
    async with door(settings_for(tmp_path, quick(up))) as gate:
        status, _, reply = await gate.ask()
        assert (status, reply["error"]["code"]) == (502, "upstream_unreachable")


ENDS = {
    "cut": (502, "upstream_error"),
    "half_event": (502, "upstream_error"),
    "no_done": (502, "upstream_error"),
    "slow": (504, "upstream_timeout"),
}


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
async def test_d37_d38_streams_that_break_end_with_an_error_event_and_no_done(
    tmp_path: Path, how: str, path: str
) -> None:
    async def breaks(request: Request, wires: Wires) -> None:
        await wires.stream(delta("a"), delta("b"), pause=0.01, end=False)
        if how == "half_event":
            await wires.send(chunk(b'data: {"choices":[{"ind'), pause=0.05)
        if how == "no_done":
            await wires.send(b"0\r\n\r\n")
        elif how == "slow":
            await asyncio.sleep(30)
        else:
            wires.cut()

    async with upstream(breaks) as up:
        own = {**quick(up, between_chunks=0.3), "dialect": "anthropic" if "messages" in path else "openai"}
        async with door(settings_for(tmp_path, own), CARE) as gate:
            seen = Seen(gate)
            async with gate.post({**STREAM, "input": "q"}, path) as got:
                body = await got.read()
                assert got.status == 200
            assert body.startswith(delta("a") + delta("b"))
            assert b"[DONE]" not in body
            last = body.removeprefix(delta("a") + delta("b")).strip().split(b"\n")
            error = json.loads(last[-1].removeprefix(b"data: "))
            assert error["error"]["message"]
            if "messages" in path:
                assert last[0] == b"event: error"
                assert error["type"] == "error"
            else:
                assert error["error"]["code"] == ENDS[how][1]
            await until(lambda: seen.exchanges)
            assert seen.exchanges[0].ending in ("cut", "timeout")
            assert not seen.exchanges[0].ok


async def test_d37_a_stream_that_is_complete_but_for_done_is_passed_on_as_it_is(tmp_path: Path) -> None:
    async def reply(request: Request, wires: Wires) -> None:
        await wires.stream(delta("a"), delta("", "stop"))

    async with upstream(reply) as up, door(settings_for(tmp_path, up)) as gate, gate.post(STREAM) as got:
        assert await got.read() == delta("a") + delta("", "stop")


ERROR_EVENTS = {
    "/v1/chat/completions": [b'data: {"error":{"message":"overloaded","type":"server_error"}}\n\n'],
    "/v1/messages": [b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"x"}}\n\n'],
    "/v1/responses": [
        b'event: response.failed\ndata: {"type":"response.failed","response":{}}\n\n',
        b'data: {"type":"response.failed","response":{}}\n\n',
        b'event: error\ndata: {"type":"error","message":"x"}\n\n',
    ],
}


@pytest.mark.parametrize(("path", "event"), [(path, event) for path, all_ in ERROR_EVENTS.items() for event in all_])
@pytest.mark.parametrize("done", [b"", DONE])
async def test_d38_an_upstreams_own_error_event_is_passed_on_and_no_good_example(
    tmp_path: Path, path: str, event: bytes, done: bytes
) -> None:
    async def gives_up(request: Request, wires: Wires) -> None:
        await wires.stream(*filter(None, (delta("a"), event, done)))

    async with upstream(gives_up) as up:
        own = {**quick(up), "dialect": "anthropic" if "messages" in path else "openai"}
        async with door(settings_for(tmp_path, own), CARE) as gate:
            seen = Seen(gate)
            async with gate.post({**STREAM, "input": "q"}, path) as got:
                assert (await got.read()).endswith(event + done)
            await until(lambda: seen.exchanges)
            assert not seen.exchanges[0].ok


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("kind", ["completed", "incomplete", "failed"])
@pytest.mark.parametrize("size", [10, 20_000, 700_000])
async def test_d37_the_last_event_of_a_response_repeats_all_of_it(
    tmp_path: Path, kind: str, named: bool, size: int
) -> None:
    said = {"type": f"response.{kind}", "response": {"output": ["x" * size], "usage": {"input_tokens": 3}}}
    name = f"event: response.{kind}\n".encode() if named else b""
    last = name + b"data: " + json.dumps(said).encode() + b"\n\n"
    first = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"x"}\n\n'

    async def reply(request: Request, wires: Wires) -> None:
        await wires.stream(first + last)

    async with upstream(reply) as up, door(settings_for(tmp_path, up), CARE) as gate:
        seen = Seen(gate)
        async with gate.post({"model": "m", "input": "q", "stream": True}, "/v1/responses") as got:
            assert await got.read() == first + last
        await until(lambda: seen.exchanges)
        assert seen.exchanges[0].ok == (kind != "failed")
        assert seen.exchanges[0].usage is not None


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\n\r\n", b"\r\r"])
async def test_d33_an_event_goes_on_when_it_is_whole_however_its_lines_end(tmp_path: Path, end: bytes) -> None:
    event = delta("a").rstrip() + end

    async def reply(request: Request, wires: Wires) -> None:
        await wires.stream(event, b'data: {"cho', end=False)
        await asyncio.sleep(30)

    async with upstream(reply) as up, door(settings_for(tmp_path, up), CARE) as gate, gate.post(STREAM) as got:
        async with asyncio.timeout(5):
            assert await got.content.readany() == event


async def test_d38_a_text_that_speaks_of_errors_is_no_error(tmp_path: Path) -> None:
    async def talks(request: Request, wires: Wires) -> None:
        await wires.stream(delta('\nevent: error\ndata: {"error":{"message":"x"}}\n'), delta("", "stop"), DONE)

    async with upstream(talks) as up, door(settings_for(tmp_path, up), CARE) as gate:
        seen = Seen(gate)
        async with gate.post(STREAM) as got:
            assert (await got.read()).endswith(DONE)
        await until(lambda: seen.exchanges)
        assert seen.exchanges[0].ok


async def test_a_whole_reply_that_is_cut_is_a_502(tmp_path: Path) -> None:
    async def cut(request: Request, wires: Wires) -> None:
        await wires.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{", pause=0.05
        )
        wires.cut()

    async with upstream(cut) as up, door(settings_for(tmp_path, up)) as gate:
        status, _, reply = await gate.ask()
        assert (status, reply["error"]["code"]) == (502, "upstream_error")


async def test_a_stream_whose_compression_breaks_ends_with_an_error_event(tmp_path: Path) -> None:
    async def breaks(request: Request, wires: Wires) -> None:
        packer = zlib.compressobj(wbits=31)
        good = packer.compress(delta("a")) + packer.flush(zlib.Z_SYNC_FLUSH)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n"
        await wires.send(head + b"transfer-encoding: chunked\r\n\r\n" + chunk(good), pause=0.05)
        await wires.send(chunk(b"\xff" * 50) + b"0\r\n\r\n")

    async with upstream(breaks) as up, door(settings_for(tmp_path, up), CARE) as gate, gate.post(STREAM) as got:
        body = await got.read()
        assert got.status == 200
        assert body.startswith(delta("a"))
        assert json.loads(body.removeprefix(delta("a"))[6:])["error"]["code"] == "upstream_error"
        assert b"[DONE]" not in body


async def test_a_trickle_is_passed_on_and_ends_with_the_total_timeout(tmp_path: Path) -> None:
    async def trickles(request: Request, wires: Wires) -> None:
        await wires.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for byte in delta("a") + delta("b" * 1000):
            await wires.send(chunk(bytes([byte])), pause=0.002)

    async with upstream(trickles) as up, door(settings_for(tmp_path, quick(up, total=0.8)), CARE) as gate:
        async with gate.post(STREAM) as got:
            body = await got.read()
        assert body.startswith(delta("a"))
        assert json.loads(body.removeprefix(delta("a"))[6:])["error"]["code"] == "upstream_timeout"
        await until(lambda: up.open == 0)


async def test_html_from_a_proxy_in_between_is_passed_on(tmp_path: Path) -> None:
    async def html(request: Request, wires: Wires) -> None:
        await wires.reply(b"<html>Bad Gateway</html>", 502, "content-type: text/html\r\n")

    async with upstream(html) as up, door(settings_for(tmp_path, up)) as gate:
        for ask in (HELLO, STREAM):
            async with gate.post(ask) as got:
                assert (got.status, await got.read()) == (502, b"<html>Bad Gateway</html>")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("phase", ["before_head", "after_head", "mid_body"])
async def test_d39_a_caller_that_leaves_cancels_the_upstream(tmp_path: Path, stream: bool, phase: str) -> None:
    kind = "text/event-stream" if stream else "application/json"

    async def reply(request: Request, wires: Wires) -> None:
        if phase != "before_head":
            await wires.send(f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        if phase == "mid_body":
            await wires.send(chunk(delta("a")))
        await asyncio.sleep(30)

    async with upstream(reply) as up, door(settings_for(tmp_path, up)) as gate:
        seen = Seen(gate)
        body = json.dumps({**HELLO, "stream": stream}).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
        writer.write(RAW + b"content-length: %d\r\n\r\n" % len(body) + body)
        await until(lambda: up.requests)
        await asyncio.sleep(0.1)
        writer.transport.abort()
        await asyncio.wait_for(up.lost.wait(), 1)
        await until(lambda: seen.exchanges)
        assert seen.exchanges[0].ending == "caller_gone"
        assert gate.worker.pipeline.in_flight == 0
        assert not gate.worker.pipeline.wire.watch.busy
        assert all(health.in_flight == 0 for health in gate.worker.pipeline.router.healths.values())
        del reader


async def test_d39_a_caller_that_leaves_while_the_upstream_is_connected(tmp_path: Path) -> None:
    deaf = socket.socket()  # nobody accepts: its queue is full after one connection, and the next one waits
    deaf.bind(("127.0.0.1", 0))
    deaf.listen(0)
    address = deaf.getsockname()
    filling = [socket.socket() for _ in range(4)]
    try:
        for one in filling:
            one.setblocking(False)
            one.connect_ex(address)
        own = {"name": "up", "base_url": f"http://127.0.0.1:{address[1]}/v1", "timeouts": {"connect": 30.0}}
        async with door(settings_for(tmp_path, own)) as gate:
            seen = Seen(gate)
            body = json.dumps(STREAM).encode()
            _, writer = await asyncio.open_connection("127.0.0.1", gate.port)
            writer.write(RAW + b"content-length: %d\r\n\r\n" % len(body) + body)
            await until(lambda: gate.worker.pipeline.in_flight == 1)
            await asyncio.sleep(0.2)
            assert gate.worker.pipeline.in_flight == 1, "still connecting"
            writer.transport.abort()
            await until(lambda: seen.exchanges, 1.0)
            assert seen.exchanges[0].ending == "caller_gone"
            assert gate.worker.pipeline.in_flight == 0
            assert all(health.in_flight == 0 for health in gate.worker.pipeline.router.healths.values())
    finally:
        for one in (deaf, *filling):
            one.close()


async def test_d39_a_caller_that_leaves_while_sending(tmp_path: Path) -> None:
    async with upstream() as up, door(settings_for(tmp_path, up)) as gate:
        _, writer = await asyncio.open_connection("127.0.0.1", gate.port)
        writer.write(RAW + b"content-length: 1000\r\n\r\n{")
        await until(lambda: gate.worker.pipeline.in_flight == 1)
        writer.transport.abort()
        await until(lambda: gate.worker.pipeline.in_flight == 0)
        assert up.requests == []


async def test_d40_a_slow_reader_holds_the_stream_back(tmp_path: Path) -> None:
    sent = 0

    async def flood(request: Request, wires: Wires) -> None:
        nonlocal sent
        await wires.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        event = chunk(delta("x" * 65_000))
        for _ in range(2000):
            await wires.send(event)
            sent += len(event)

    async with upstream(flood) as up, door(settings_for(tmp_path, up)) as gate:
        body = json.dumps(STREAM).encode()
        _, writer = await asyncio.open_connection("127.0.0.1", gate.port, limit=4096)
        writer.write(RAW + b"content-length: %d\r\n\r\n" % len(body) + body)
        await asyncio.sleep(0.8)
        stopped = sent
        await asyncio.sleep(0.3)
        assert sent == stopped < 40 * 2**20
        writer.transport.abort()
        await until(lambda: up.open == 0)


async def test_d41_comments_keep_a_slow_stream_alive(tmp_path: Path) -> None:
    async def slow(request: Request, wires: Wires) -> None:
        await asyncio.sleep(0.5)
        await wires.stream(delta("a", "stop"), DONE)

    async with upstream(slow) as up, door(settings_for(tmp_path, up, gateway={"keepalive": 0.1}), CARE) as gate:
        async with gate.post(STREAM) as got:
            body = await got.read()
            assert got.headers["content-type"].startswith("text/event-stream")
            assert got.headers["x-metaspo-version"] == "1"
        assert body.startswith(b": waiting\n\n")
        assert body.replace(b": waiting\n\n", b"") == delta("a", "stop") + DONE
        async with gate.post(HELLO) as got:
            assert b"waiting" not in await got.read()


async def test_d41_an_error_after_comments_is_an_event(tmp_path: Path) -> None:
    async def slow(request: Request, wires: Wires) -> None:
        await asyncio.sleep(0.3)
        await wires.reply({"error": {"message": "no"}}, 500)

    async with upstream(slow) as up, door(settings_for(tmp_path, up, gateway={"keepalive": 0.1})) as gate:
        async with gate.post(STREAM) as got:
            body = await got.read()
        events = [line for line in body.split(b"\n\n") if line.startswith(b"data:")]
        assert len(events) == 1
        assert "500" in json.loads(events[0][6:])["error"]["message"]
        assert b"[DONE]" not in body


async def test_d42_callers_connections_are_kept(tmp_path: Path) -> None:
    async with upstream() as up, door(settings_for(tmp_path, up)) as gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
        for path in (b"/v1/chat/completions", b"/healthz", b"/v1/chat/completions"):
            method = b"GET" if path == b"/healthz" else b"POST"
            content = b"" if method == b"GET" else BODY
            writer.write(
                RAW.replace(b"POST /v1/chat/completions", method + b" " + path)
                + b"content-length: %d\r\n\r\n" % len(content)
                + content
            )
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in head
            assert b"connection: close" not in head
            length = int(dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:-2])[b"content-length"])
            await reader.readexactly(length)
        connection = next(iter(gate.server.server_state.connections))
        connection.sweep(asyncio.get_running_loop().time() + 65)  # longer than a load balancer's 60 s
        assert not connection.transport.is_closing()
        connection.sweep(asyncio.get_running_loop().time() + 80)
        assert await reader.read() == b""
        writer.close()
        assert up.connections == 1


async def test_d43_compressed_replies_of_the_upstream_are_opened(tmp_path: Path) -> None:
    async def packed(request: Request, wires: Wires) -> None:
        assert request.headers[b"accept-encoding"] == b"identity"
        await wires.reply(
            gzip.compress(json.dumps(completion()).encode()),
            headers="content-encoding: gzip\r\ncontent-type: application/json\r\n",
        )

    async def packed_stream(request: Request, wires: Wires) -> None:
        raw = gzip.compress(delta("a", "stop") + DONE)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n"  # noqa: E501
        await wires.send(head + chunk(raw[:9]), chunk(raw[9:]), b"0\r\n\r\n", pause=0.01)

    async def broken(request: Request, wires: Wires) -> None:
        await wires.reply(b"not gzip at all", headers="content-encoding: gzip\r\n")

    async with upstream(packed) as up, door(settings_for(tmp_path, up)) as gate:
        status, headers, reply = await gate.ask(accept_encoding="gzip, br")
        assert (status, reply) == (200, completion())
        assert "content-encoding" not in headers
    async with upstream(packed_stream) as up, door(settings_for(tmp_path, up)) as gate, gate.post(STREAM) as got:
        assert await got.read() == delta("a", "stop") + DONE
        assert "content-encoding" not in got.headers
    async with upstream(broken) as up, door(settings_for(tmp_path, up)) as gate:
        status, _, reply = await gate.ask()
        assert (status, reply["error"]["code"]) == (502, "upstream_error")


async def test_d44_http10_and_connection_close(tmp_path: Path) -> None:
    async def stream(request: Request, wires: Wires) -> None:
        await wires.stream(delta("a", "stop"), DONE)

    body = json.dumps(STREAM).encode()
    tail = b"content-length: %d\r\n\r\n" % len(body) + body
    async with upstream(stream) as up, door(settings_for(tmp_path, up)) as gate:
        got = await gate.raw(RAW.replace(b"HTTP/1.1", b"HTTP/1.0") + tail)
        head, _, rest = got.partition(b"\r\n\r\n")
        assert b"connection: close" in head
        assert b"chunked" not in head
        assert rest == delta("a", "stop") + DONE
        got = await gate.raw(RAW + b"connection: close\r\n" + tail)
        assert b"connection: close" in got
        assert got.endswith(b"0\r\n\r\n")


async def test_d44_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async def reply(request: Request, wires: Wires) -> None:
        await asyncio.sleep(0.05 if request.json["model"] == "first" else 0)
        await wires.reply(completion(request.json["model"]))

    requests = b""
    for name in ("first", "second", "third"):
        body = json.dumps({**HELLO, "model": name}).encode()
        requests += RAW + b"content-length: %d\r\n\r\n" % len(body) + body
    async with upstream(reply) as up, door(settings_for(tmp_path, up)) as gate:
        got = await gate.raw(requests)
        assert [got.index(name) for name in (b'"first"', b'"second"', b'"third"')] == sorted(
            got.index(name) for name in (b'"first"', b'"second"', b'"third"')
        )
        assert got.count(b"HTTP/1.1 200") == 3


async def test_d45_draining_finishes_streams(tmp_path: Path) -> None:
    async def slow(request: Request, wires: Wires) -> None:
        await wires.stream(delta("a"), delta("b"), delta("c", "stop"), DONE, pause=0.1)

    async with upstream(slow) as up, door(settings_for(tmp_path, up)) as gate, gate.post(STREAM) as got:
        await got.content.readany()
        gate.server._drain()
        assert gate.worker.ready() == (False, "draining")
        assert (await got.read()).endswith(DONE)


async def test_d45_the_deadline_ends_streams_with_an_error_event(tmp_path: Path) -> None:
    async def endless(request: Request, wires: Wires) -> None:
        await wires.stream(*[delta("a")] * 1000, pause=0.02)

    async with upstream(endless) as up, door(settings_for(tmp_path, up)) as gate:
        seen = Seen(gate)
        async with gate.post(STREAM) as got:
            await got.content.readany()
            gate.server._drain()
            body = await got.read()
        assert b'"error"' in body[-300:]
        assert b"[DONE]" not in body
        await asyncio.wait_for(up.lost.wait(), 2)
        assert seen.exchanges[0].ending == "cut"


async def test_d46_neighbours_that_fail_never_change_a_reply(tmp_path: Path) -> None:
    class Broken:
        def settle(self, exchange: Exchange) -> None:
            raise RuntimeError("settle")

        def admit(self, key: Any, est_tokens: int) -> None:
            return None

        def observe(self, exchange: Exchange) -> None:
            raise RuntimeError("observe")

        def offer(self, exchange: Exchange) -> None:
            raise RuntimeError("offer")

    async with upstream() as up, door(settings_for(tmp_path, up), CARE) as gate:
        neighbours = gate.worker.pipeline.neighbours
        neighbours.limits = neighbours.metrics = neighbours.recorder = Broken()  # type: ignore[assignment]
        for _ in range(3):
            assert (await gate.ask())[0] == 200
        assert gate.worker.pipeline.in_flight == 0


async def test_d47_a_request_in_flight_keeps_its_version(tmp_path: Path) -> None:
    arrived, go = asyncio.Event(), asyncio.Event()

    async def wait(request: Request, wires: Wires) -> None:
        arrived.set()
        await go.wait()
        await wires.reply(completion())

    second = CARE.__class__(
        domain=CARE.domain,
        deployment=Deployment(domain="global", epoch=2, stable=2),
        versions={2: ServedVersion(number=2, system_prompt="Second.", hash="h")},
    )
    async with upstream(wait) as up, door(settings_for(tmp_path, up), CARE) as gate:
        asking = asyncio.create_task(gate.ask())
        await arrived.wait()
        gate.use(second)
        go.set()
        _, headers, _ = await asking
        assert headers["x-metaspo-version"] == "1"
        assert up.last.json["messages"][0]["content"] == "Be careful."
        _, headers, _ = await gate.ask()
        assert headers["x-metaspo-version"] == "2"
        assert up.last.json["messages"][0]["content"] == "Second."


async def test_unexpected_faults_are_logged_and_answered_in_shape(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with upstream() as up, door(settings_for(tmp_path, up)) as gate:
        gate.worker.pipeline.router = None  # type: ignore[assignment]
        status, _, reply = await gate.ask()
        assert (status, reply["error"]["code"]) == (500, "internal_error")
        assert "failed inside the gateway" in caplog.text
        assert "hi" not in caplog.text.split()
        assert AUTH["authorization"] not in caplog.text


async def test_the_same_application_under_any_asgi_server(tmp_path: Path) -> None:
    async def reply(request: Request, wires: Wires) -> None:
        if request.json["model"] == "hang":
            await asyncio.sleep(30)
        if request.json.get("stream"):
            await asyncio.sleep(0.3)
            await wires.stream(delta("a", "stop"), DONE)
        else:
            await wires.reply(completion())

    limits = {"keepalive": 0.1, "max_body_bytes": 4096}
    async with upstream(reply) as up, door(settings_for(tmp_path, up, gateway=limits), CARE, asgi=True) as gate:
        seen = Seen(gate)
        status, headers, _ = await gate.ask()
        assert (status, headers["x-metaspo-version"]) == (200, "1")
        async with gate.post(STREAM) as got:
            body = await got.read()
        assert body.startswith(b": waiting")
        assert body.endswith(delta("a", "stop") + DONE)
        assert (await gate.ask({**HELLO, "x": "y" * 5000}))[0] == 413
        assert (await gate.ask(b"{"))[0] == 400
        before = len(up.requests)
        raw = json.dumps({**HELLO, "model": "hang"}).encode()
        _, writer = await asyncio.open_connection("127.0.0.1", gate.port)
        writer.write(RAW + b"content-length: %d\r\n\r\n" % len(raw) + raw)
        await until(lambda: len(up.requests) > before)
        writer.transport.abort()
        await asyncio.wait_for(up.lost.wait(), 2)
        await until(lambda: seen.exchanges[-1].ending == "caller_gone")
        assert gate.worker.pipeline.in_flight == 0
