"""A provider on loopback that speaks Anthropic's and OpenAI's formats; the model's name says how it behaves.

``err429`` answers with that status, ``html`` with a page; ``silent`` never answers; ``cut``, ``quiet-cut``, ``midway``,
``stalls``, ``mute`` and ``endless`` misbehave within a stream; ``rich`` sends a refusal and fields that no
specification knows.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web


@dataclass
class Provider:
    """A provider of both formats; the model's name says how it behaves."""

    url: str = ""
    hits: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    fetched: list[str] = field(default_factory=list)

    @property
    def body(self) -> dict[str, Any]:
        return self.hits[-1][2]

    async def fetch(self, request: web.Request) -> web.Response:
        self.fetched.append(request.path)
        return web.Response(body=b"\x89PNG\r\n", content_type="image/png")

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.hits.append((request.path, dict(request.headers), body))
        model = body["model"].removeprefix("claude-")
        anthropic = request.path.endswith("/messages")
        if model.startswith("err"):
            return self._error(int(model[3:6]), anthropic)
        if model == "html":
            return web.Response(text="<html>bad gateway</html>", status=502, content_type="text/html")
        if model == "silent":
            try:
                await asyncio.sleep(30)
            finally:
                self.gone.set()
        if request.path.endswith("/embeddings"):
            return web.json_response(EMBEDDINGS)
        if body.get("stream"):
            return await self._stream(request, model, anthropic)
        whole = ANTHROPIC_WHOLE if anthropic else OPENAI_RICH if model == "rich" else OPENAI_WHOLE
        return web.json_response(whole, headers={"request-id": "req_3", "x-ratelimit-remaining-requests": "41"})

    def _error(self, status: int, anthropic: bool) -> web.Response:
        if anthropic:
            body: Any = {"type": "error", "error": {"type": "overloaded_error", "message": "Slow down please."}}
        else:
            body = {
                "error": {"message": "Slow down please.", "type": "weird_type", "param": "temperature", "code": "c1"}
            }
        return web.json_response(body, status=status, headers={"retry-after": "7", "x-request-id": "req_1"})

    async def _stream(self, request: web.Request, model: str, anthropic: bool) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"content-type": "text/event-stream", "request-id": "req_2"})
        await reply.prepare(request)
        frames = anthropic_frames() if anthropic else openai_frames()
        try:
            for number, frame in enumerate(frames):
                if model == "mute":
                    await asyncio.sleep(30)
                if number == 4 and model == "endless":
                    while True:
                        await reply.write(frames[3])
                        await asyncio.sleep(0.01)
                if number == 4 and model == "stalls":
                    await asyncio.sleep(30)
                if number == 4 and model == "cut":
                    assert request.transport is not None
                    request.transport.close()
                    return reply
                if number == 4 and model == "quiet-cut":
                    return reply  # an end in order, before the provider said why
                if number == 4 and model == "midway":
                    error = {"type": "overloaded_error", "message": "Overloaded midway."}
                    await reply.write(sse({"type": "error", "error": error}, "error" if anthropic else ""))
                    return reply
                await reply.write(frame)
        except (ConnectionError, asyncio.CancelledError):
            self.gone.set()
            raise
        return reply


EMBEDDINGS = {
    "object": "list",
    "model": "emb",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -1.0]}],
    "usage": {"prompt_tokens": 3, "total_tokens": 3},
}
ANTHROPIC_WHOLE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-real",
    "content": [{"type": "text", "text": "hello"}], "stop_reason": "end_turn", "stop_sequence": None,
    "usage": {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2},
}  # fmt: skip
OPENAI_WHOLE = {
    "id": "chatcmpl-9", "object": "chat.completion", "created": 1, "model": "gpt-real",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "hello", "refusal": None}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
}  # fmt: skip

OPENAI_RICH = {
    **OPENAI_WHOLE, "vendor_field": 1,
    "choices": [{
        "index": 0, "finish_reason": "stop",
        "message": {"role": "assistant", "content": None, "refusal": "I will not.", "vendor_note": "x"},
    }],
}  # fmt: skip


def sse(data: Any, name: str = "") -> bytes:
    return (f"event: {name}\n" if name else "").encode() + f"data: {json.dumps(data)}\n\n".encode()


def anthropic_frames() -> list[bytes]:
    usage = {"input_tokens": 10, "output_tokens": 1, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 0}
    message = {**ANTHROPIC_WHOLE, "content": [], "stop_reason": None, "usage": usage}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hel"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "lo"}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 7},
        },
        {"type": "message_stop"},
    ]
    return [sse(event, event["type"]) for event in events]


def openai_frames() -> list[bytes]:
    head = {"id": "chatcmpl-9", "object": "chat.completion.chunk", "created": 1, "model": "gpt-real"}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        return sse({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    usage = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
    return [
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "hel"}),
        chunk({"content": "l"}),
        chunk({"content": "o"}),
        chunk({}, "stop"),
        sse({**head, "choices": [], "usage": usage}),
        b"data: [DONE]\n\n",
    ]


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    made = Provider()
    app = web.Application()
    app.router.add_post("/{path:.*}", made.answer)
    app.router.add_get("/{path:.*}", made.fetch)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()
