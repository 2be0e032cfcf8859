"""The translate lane against real loopback upstreams that speak Anthropic's and OpenAI's formats."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
from two_dialects import Provider, provider

from gateway.errors import BadRequest, ConnectFailed, UpstreamBroken, UpstreamFailed, UpstreamTimeout
from gateway.exchange import Dialect, Exchange, Target
from gateway.translate import LiteLLMLane
from gateway.translate.requests import FIELDS, read_body
from registry import Settings

__all__ = ["provider"]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def lane(provider: Provider, **timeouts: float) -> LiteLLMLane:
    upstreams = [
        {
            "name": "claude",
            "dialect": "anthropic",
            "base_url": provider.url,
            "api_key": "sk-ours",
            "timeouts": timeouts,
        },
        {
            "name": "openai",
            "dialect": "openai",
            "base_url": f"{provider.url}/v1",
            "api_key": "sk-ours",
            "timeouts": timeouts,
        },
        {"name": "any", "dialect": "litellm", "timeouts": timeouts},
    ]
    return LiteLLMLane(Settings.model_validate({"upstreams": upstreams}))


def target(provider: Provider, upstream: str, model: str) -> Target:
    wire = {"claude": "anthropic", "openai": "openai", "any": "litellm"}[upstream]
    base = provider.url if upstream == "claude" else f"{provider.url}/v1"
    return Target(upstream, wire, model, base, "sk-ours")  # type: ignore[arg-type]


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def events(self) -> list[Any]:
        frames = [frame for frame in self.raw.decode().split("\n\n") if frame]
        return [data if data == "[DONE]" else json.loads(data) for data in (f.split("data: ", 1)[1] for f in frames)]


async def ask(
    provider: Provider,
    dialect: Dialect,
    upstream: str,
    model: str,
    body: dict[str, Any],
    *,
    into: list[bytes] | None = None,
    **timeouts: float,
) -> Reply:
    """What the lane answers. ``into`` gets the chunks also when the reply breaks off."""
    exchange = Exchange("x1", dialect, 0.0, 0.0)
    sent = json.dumps({"model": "asked", **body}).encode()
    status, headers, chunks = await lane(provider, **timeouts).send(exchange, sent, target(provider, upstream, model))
    got = [] if into is None else into
    async for chunk in chunks:
        got.append(chunk)
    raw = b"".join(got)
    return Reply(status, {name.decode(): value.decode() for name, value in headers}, raw)


HI = {"messages": [{"role": "user", "content": "hi"}]}
HI_CLAUDE = {**HI, "max_tokens": 50}


# --- chat completions to Anthropic ------------------------------------------------------------------------------------


async def test_chat_to_anthropic_whole(provider: Provider) -> None:
    body = {**HI, "metadata": {"user_id": "u-1"}, "seed": 7, "store": True, "prompt_cache_key": "k", "stop": ["END"]}
    body["messages"] = [{"role": "developer", "content": "be nice"}, *body["messages"]]
    reply = await ask(provider, "chat", "claude", "claude-x", body)
    path, headers, sent = provider.hits[0]
    assert path == "/v1/messages"
    assert headers["x-api-key"] == "sk-ours"
    assert sent["system"] == [{"type": "text", "text": "be nice"}]
    assert sent["metadata"] == {"user_id": "u-1"}
    assert sent["stop_sequences"] == ["END"]
    assert not {"seed", "store", "prompt_cache_key"} & set(sent)
    assert reply.status == 200
    assert reply.headers["request-id"] == "req_3"
    said = reply.json
    assert set(said) == {"id", "object", "created", "model", "choices", "usage"}
    assert said["model"] == "claude-real"
    assert said["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "hello", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert said["usage"] == {
        "prompt_tokens": 16, "completion_tokens": 5, "total_tokens": 21, "prompt_tokens_details": {"cached_tokens": 4}
    }  # fmt: skip


@pytest.mark.parametrize("include_usage", [True, False])
async def test_chat_to_anthropic_streamed(provider: Provider, include_usage: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if include_usage else {}
    reply = await ask(provider, "chat", "claude", "claude-x", {**HI, "stream": True, **options})
    assert reply.headers["content-type"].startswith("text/event-stream")
    *chunks, done = reply.events
    assert done == "[DONE]"
    assert len({(c["id"], c["created"], c["model"]) for c in chunks}) == 1
    assert chunks[0]["model"] == "claude-real", "the name that the provider gives, as in a whole reply"
    spoken = [c for c in chunks if c["choices"]]
    assert spoken[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in spoken) == "hello"
    assert [c["choices"][0]["finish_reason"] for c in spoken if c["choices"][0]["finish_reason"]] == ["stop"]
    if include_usage:
        assert chunks[-1]["choices"] == []
        usage = {
            "prompt_tokens": 14,
            "completion_tokens": 7,
            "total_tokens": 21,
            "prompt_tokens_details": {"cached_tokens": 4},
        }
        assert chunks[-1]["usage"] == usage
        assert all(c["usage"] is None for c in spoken)
    else:
        assert all("usage" not in c for c in chunks)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 429, 500, 503, 529])
async def test_an_upstreams_error_keeps_status_words_and_retry_headers_and_is_asked_once(
    provider: Provider, status: int, stream: bool
) -> None:
    reply = await ask(provider, "chat", "claude", f"err{status}", {**HI, "stream": stream})
    assert reply.status == status
    assert reply.json == {
        "error": {"message": "Slow down please.", "type": "overloaded_error", "param": None, "code": None}
    }
    assert reply.headers["retry-after"] == "7"
    assert reply.headers["x-request-id"] == "req_1"
    assert len(provider.hits) == 1


async def test_an_html_error_is_not_passed_on(provider: Provider) -> None:
    reply = await ask(provider, "chat", "claude", "html", HI)
    assert reply.status == 502
    assert reply.json["error"]["message"] == "The upstream answered 502."


@pytest.mark.parametrize("model", ["cut", "midway"])
@pytest.mark.parametrize("dialect", ["chat", "messages"])
async def test_a_stream_that_breaks_off_delivers_what_came_and_raises(
    provider: Provider, model: str, dialect: Dialect
) -> None:
    upstream = "claude" if dialect == "chat" else "openai"
    exchange = Exchange("x1", dialect, 0.0, 0.0)
    body = json.dumps({**HI_CLAUDE, "stream": True}).encode()
    _, _, chunks = await lane(provider).send(exchange, body, target(provider, upstream, model))
    got = b""
    with pytest.raises(UpstreamBroken) as caught:
        async for chunk in chunks:
            got += chunk
    assert b"hel" in got
    assert b"[DONE]" not in got
    assert b"message_stop" not in got
    assert caught.value.started
    if model == "midway":
        assert "Overloaded midway." in str(caught.value)


async def test_nobody_listens(provider: Provider) -> None:
    gone = Target("claude", "anthropic", "claude-x", "http://127.0.0.1:9", "sk")
    with pytest.raises(ConnectFailed):
        await lane(provider).send(Exchange("x1", "chat", 0.0, 0.0), json.dumps(HI).encode(), gone)


async def test_time_limits_by_phase(provider: Provider) -> None:
    with pytest.raises(UpstreamTimeout) as caught:
        await ask(provider, "chat", "claude", "silent", {**HI, "stream": True}, first_token=0.2)
    assert caught.value.phase == "first_token"
    with pytest.raises(UpstreamTimeout) as caught:
        await ask(provider, "chat", "claude", "silent", HI, total=0.2)
    assert caught.value.phase == "total"
    with pytest.raises(UpstreamTimeout) as caught:
        await ask(provider, "chat", "claude", "stalls", {**HI, "stream": True}, between_chunks=0.2)
    assert (caught.value.phase, caught.value.started) == ("between_chunks", True)
    with pytest.raises(UpstreamTimeout) as caught:
        await ask(provider, "chat", "claude", "endless", {**HI, "stream": True}, total=0.4, between_chunks=5)
    assert (caught.value.phase, caught.value.started) == ("total", True)


@pytest.mark.parametrize(("dialect", "upstream"), [("chat", "claude"), ("messages", "openai")])
async def test_closing_the_reply_cancels_the_upstream(provider: Provider, dialect: Dialect, upstream: str) -> None:
    exchange = Exchange("x1", dialect, 0.0, 0.0)
    body = json.dumps({**HI_CLAUDE, "stream": True}).encode()
    _, _, chunks = await lane(provider).send(exchange, body, target(provider, upstream, "endless"))
    await anext(chunks)
    await chunks.aclose()
    async with asyncio.timeout(1):
        await provider.gone.wait()


async def test_a_caller_who_leaves_while_waiting_cancels_the_upstream(provider: Provider) -> None:
    waiting = asyncio.create_task(ask(provider, "chat", "claude", "silent", HI))
    while not provider.hits:
        await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(1):
        await provider.gone.wait()


# --- messages to OpenAI -----------------------------------------------------------------------------------------------


async def test_messages_to_openai_whole(provider: Provider) -> None:
    body = {**HI_CLAUDE, "system": "be nice", "metadata": {"user_id": "u-1"}, "stop_sequences": ["END"]}
    reply = await ask(provider, "messages", "openai", "gpt-x", body)
    path, _, sent = provider.hits[0]
    assert path == "/v1/chat/completions"
    assert sent["messages"][0] == {"role": "system", "content": "be nice"}
    assert (sent["user"], sent["stop"], sent["model"]) == ("u-1", ["END"], "gpt-x")
    assert reply.json == {
        "id": "chatcmpl-9", "type": "message", "role": "assistant", "model": "gpt-real",
        "content": [{"type": "text", "text": "hello"}], "stop_reason": "end_turn", "stop_sequence": None,
        "usage": {"input_tokens": 11, "output_tokens": 3},
    }  # fmt: skip


async def test_messages_to_openai_streamed(provider: Provider) -> None:
    reply = await ask(provider, "messages", "openai", "gpt-x", {**HI_CLAUDE, "stream": True})
    kinds = [event["type"] for event in reply.events]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    text = "".join(e["delta"].get("text", "") for e in reply.events if e["type"] == "content_block_delta")
    assert text == "hello"
    assert reply.events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert reply.events[-2]["usage"]["output_tokens"] == 3


async def test_messages_get_errors_in_their_own_shape(provider: Provider) -> None:
    reply = await ask(provider, "messages", "openai", "err429", HI_CLAUDE)
    assert reply.status == 429
    assert reply.json == {"type": "error", "error": {"type": "rate_limit_error", "message": "Slow down please."}}
    assert reply.headers["retry-after"] == "7"
    assert len(provider.hits) == 1


# --- OpenAI's format through the SDK ----------------------------------------------------------------------------------


async def test_what_the_sdk_would_rewrite_arrives_as_it_was_sent(provider: Provider) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": "be nice"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "1"},
    ]  # fmt: skip
    body = {"messages": messages, "metadata": {"a": "b"}, "reasoning_effort": "low", "verbosity": "low", "seed": 3}
    reply = await ask(provider, "chat", "any", "openai/my-private-model", body)
    assert reply.status == 200
    assert provider.body["messages"] == messages
    assert provider.body["metadata"] == {"a": "b"}
    assert (provider.body["reasoning_effort"], provider.body["verbosity"], provider.body["seed"]) == ("low", "low", 3)


async def test_openai_errors_keep_type_param_and_code(provider: Provider) -> None:
    reply = await ask(provider, "chat", "any", "openai/err400", HI)
    assert reply.json["error"] == {
        "message": "Slow down please.", "type": "weird_type", "param": "temperature", "code": "c1"
    }  # fmt: skip


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_embeddings(provider: Provider, encoding: str) -> None:
    reply = await ask(provider, "embeddings", "any", "openai/emb", {"input": "hi", "encoding_format": encoding})
    vector = reply.json["data"][0]["embedding"]
    if encoding == "base64":
        vector = list(struct.unpack("<2f", base64.b64decode(vector)))
    assert vector == [0.5, -1.0]
    assert reply.json["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


async def test_responses_to_anthropic(provider: Provider) -> None:
    reply = await ask(provider, "responses", "claude", "claude-x", {"input": "hi", "instructions": "be nice"})
    assert provider.body["system"] == [{"type": "text", "text": "be nice"}]
    message = next(item for item in reply.json["output"] if item["type"] == "message")
    assert message["content"][0]["text"] == "hello"
    assert reply.json["status"] == "completed"


async def test_responses_to_anthropic_streamed(provider: Provider) -> None:
    reply = await ask(provider, "responses", "claude", "claude-x", {"input": "hi", "stream": True})
    kinds = [event["type"] for event in reply.events]
    assert kinds[-1] == "response.completed"
    text = "".join(event["delta"] for event in reply.events if event["type"] == "response.output_text.delta")
    assert text == "hello"


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["api_base", "base_url", "api_key", "api_version", "custom_llm_provider", "extra_headers", "headers", "extra_body",
     "mock_response", "fallbacks", "model_list", "litellm_metadata", "proxy_server_request", "timeout", "num_retries",
     "max_retries", "organization", "drop_params", "allowed_openai_params", "aws_bedrock_runtime_endpoint", "prompt_id",
     "vertex_credentials", "callbacks", "client", "guardrails", "no_such_thing"],
)  # fmt: skip
@pytest.mark.parametrize("dialect", sorted(FIELDS))
def test_the_sdks_switches_are_not_the_callers(dialect: Dialect, name: str) -> None:
    body = {"messages": [], "input": "x", "max_tokens": 1, name: "http://169.254.169.254/"}
    body = {key: value for key, value in body.items() if key in FIELDS[dialect] or key == name}
    with pytest.raises(BadRequest) as caught:
        read_body(dialect, json.dumps(body).encode())
    assert (caught.value.refusal.status, caught.value.refusal.param) == (400, name)


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b'{"temperature": 1}', b'{"messages": null}', b"[" * 50_000])
def test_bodies_that_cannot_be_carried(body: bytes) -> None:
    with pytest.raises(BadRequest):
        read_body("chat", body)


def test_mcp_tools_and_legacy_completions_are_refused() -> None:
    with pytest.raises(BadRequest, match="MCP"):
        read_body(
            "responses", json.dumps({"input": "x", "tools": [{"type": "mcp", "server_url": "litellm_proxy"}]}).encode()
        )
    with pytest.raises(BadRequest, match="cannot be translated"):
        read_body("completions", b'{"prompt": "x"}')


@pytest.mark.parametrize(
    "model", ["bedrock/anthropic.claude-3-5-sonnet-20240620-v1:0", "gemini/gemini-2.0-flash", "anthropic/c"]
)
async def test_addresses_of_private_networks_in_messages_are_not_fetched(
    provider: Provider, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION_NAME"):
        monkeypatch.setenv(name, "us-east-1")
    image = {"type": "image_url", "image_url": {"url": f"{provider.url}/secret.png"}}
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}, image]}]}
    reply = await ask(provider, "chat", "any", model, body)
    assert reply.status == 400
    assert set(reply.json["error"]) == {"message", "type", "param", "code"}
    assert not reply.json["error"]["message"].startswith("litellm")
    assert provider.fetched == []
    assert provider.hits == []


async def test_a_parameter_that_would_change_the_answer_is_refused_not_dropped(provider: Provider) -> None:
    reply = await ask(provider, "chat", "claude", "claude-x", {**HI, "logit_bias": {"1": 5}})
    assert reply.status == 400
    assert "logit_bias" in reply.json["error"]["message"]
    assert provider.hits == []


async def test_a_model_without_a_provider_is_the_operators_mistake(provider: Provider) -> None:
    with pytest.raises(UpstreamFailed, match="PROVIDER/MODEL"):
        await ask(provider, "chat", "any", "nobody-knows-this", HI)


def test_the_gateway_does_not_import_the_sdk_at_start() -> None:
    code = "import sys, gateway.translate; print('litellm' in sys.modules, 'openai' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
