"""Chat completions and messages to providers with formats of their own (Gemini, Bedrock, Cohere), over real HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from test_translate import HI, HI_CLAUDE, Reply

from gateway.exchange import Dialect, Exchange, Target
from gateway.translate import LiteLLMLane
from registry import Settings

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def gemini(text: str, finish: str | None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
    usage = {"promptTokenCount": 11, "candidatesTokenCount": 3, "totalTokenCount": 14}
    return {
        "candidates": [candidate | ({"finishReason": finish} if finish else {})],
        "usageMetadata": usage,
        "modelVersion": "gemini-real",
    }


BEDROCK = {
    "output": {"message": {"role": "assistant", "content": [{"text": "hello"}]}},
    "stopReason": "end_turn",
    "usage": {"inputTokens": 11, "outputTokens": 3, "totalTokens": 14},
    "metrics": {"latencyMs": 1},
}
COHERE = {
    "id": "c-1",
    "finish_reason": "COMPLETE",
    "message": {"role": "assistant", "content": [{"type": "text", "text": "hello"}]},
    "usage": {"tokens": {"input_tokens": 11, "output_tokens": 3}},
}
THROTTLED = {
    "gemini": {"error": {"code": 429, "message": "Quota exceeded.", "status": "RESOURCE_EXHAUSTED"}},
    "bedrock": {"message": "Quota exceeded."},
    "cohere": {"message": "Quota exceeded."},
}


@dataclass
class Elsewhere:
    url: str = ""
    hits: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    cut: bool = False
    throttle: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.hits.append((request.path, await request.json()))
        if self.throttle:
            return web.json_response(THROTTLED[self.throttle], status=429, headers={"retry-after": "7"})
        if "streamGenerateContent" in request.path:
            reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await reply.prepare(request)
            for piece in (gemini("hel", None), gemini("lo", None if self.cut else "STOP")):
                await reply.write(b"data: " + json.dumps(piece).encode() + b"\r\n\r\n")
            return reply
        if "generateContent" in request.path:
            return web.json_response(gemini("hello", "STOP"))
        return web.json_response(BEDROCK if "converse" in request.path else COHERE)


@pytest.fixture
async def elsewhere() -> AsyncIterator[Elsewhere]:
    made = Elsewhere()
    app = web.Application()
    app.router.add_post("/{path:.*}", made.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


MODELS = {
    "gemini": "gemini/gemini-2.0-flash",
    "bedrock": "bedrock/converse/us.amazon.nova-lite-v1:0",
    "cohere": "cohere_chat/v2/command-r",
}


async def ask(where: Elsewhere, provider: str, dialect: Dialect, body: dict[str, Any], got: list[bytes]) -> Reply:
    aws = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "aws_region_name": "us-east-1"}
    own = {"gemini": {}, "cohere": {}, "bedrock": {**aws, "aws_bedrock_runtime_endpoint": where.url}}[provider]
    upstreams = [{"name": "any", "dialect": "litellm", "params": own}]
    base = {"gemini": f"{where.url}/v1beta/models/g", "cohere": f"{where.url}/v2/chat", "bedrock": ""}[provider]
    target = Target("any", "litellm", MODELS[provider], base, "" if provider == "bedrock" else "sk-ours")
    lane = LiteLLMLane(Settings.model_validate({"upstreams": upstreams}))
    sent = json.dumps({"model": "asked", **body}).encode()
    status, headers, chunks = await lane.send(Exchange("x1", dialect, 0.0, 0.0), sent, target)
    async for chunk in chunks:
        got.append(chunk)
    return Reply(status, {name.decode(): value.decode() for name, value in headers}, b"".join(got))


@pytest.mark.parametrize("provider", MODELS)
async def test_chat_is_translated_both_ways(elsewhere: Elsewhere, provider: str) -> None:
    messages = [{"role": "system", "content": "be nice"}, *HI["messages"]]
    reply = await ask(elsewhere, provider, "chat", {"messages": messages, "max_tokens": 5}, [])
    assert reply.status == 200
    assert "be nice" in json.dumps(elsewhere.hits[0][1])
    assert reply.json["object"] == "chat.completion"
    choice = reply.json["choices"][0]
    assert (choice["message"], choice["finish_reason"]) == (
        {"role": "assistant", "content": "hello", "refusal": None},
        "stop",
    )
    assert reply.json["usage"] == {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
    assert len(elsewhere.hits) == 1


@pytest.mark.parametrize("provider", MODELS)
async def test_messages_are_translated_both_ways(elsewhere: Elsewhere, provider: str) -> None:
    reply = await ask(elsewhere, provider, "messages", {**HI_CLAUDE, "system": "be nice"}, [])
    assert reply.status == 200
    assert "be nice" in json.dumps(elsewhere.hits[0][1])
    assert (reply.json["type"], reply.json["stop_reason"]) == ("message", "end_turn")
    assert reply.json["content"] == [{"type": "text", "text": "hello"}]
    assert reply.json["usage"] == {"input_tokens": 11, "output_tokens": 3}


@pytest.mark.parametrize("provider", MODELS)
async def test_a_provider_that_is_busy_is_asked_once(elsewhere: Elsewhere, provider: str) -> None:
    elsewhere.throttle = provider
    reply = await ask(elsewhere, provider, "chat", HI, [])
    assert (reply.status, reply.json["error"]["message"]) == (429, "Quota exceeded.")
    assert reply.headers["retry-after"] == "7"
    assert len(elsewhere.hits) == 1


async def test_a_stream_of_gemini(elsewhere: Elsewhere) -> None:
    reply = await ask(elsewhere, "gemini", "chat", {**HI, "stream": True}, [])
    *chunks, done = reply.events
    assert done == "[DONE]"
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "hello"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] == "stop"
    assert {chunk["model"] for chunk in chunks} == {"gemini-real"}


async def test_a_stream_of_gemini_that_never_says_how_it_ended(elsewhere: Elsewhere) -> None:
    elsewhere.cut = True
    got: list[bytes] = []
    with pytest.raises(Exception, match="too early"):
        await ask(elsewhere, "gemini", "chat", {**HI, "stream": True}, got)
    assert b"hel" in b"".join(got)
    assert b"[DONE]" not in b"".join(got)
