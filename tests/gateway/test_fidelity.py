"""What the LiteLLM SDK gets wrong, and callers of the translate lane never see: over real HTTP on loopback.

Each test that begins with ``d3`` is one row of the list of infidelities in docs/behaviours.md.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from rig import AUTH, Door, door, settings_for
from test_translate import HI, HI_CLAUDE, ask
from two_dialects import ANTHROPIC_WHOLE, OPENAI_RICH, Provider, anthropic_frames, provider

from gateway.errors import UpstreamBroken
from gateway.exchange import Dialect

__all__ = ["provider"]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
INPUT = {"input": "hi"}


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("openai/gpt-4o-mini", {"verbosity": "low", "reasoning_effort": "low"}),
        ("openai/my-private-model", {"verbosity": "low", "reasoning_effort": "low"}),
        ("openai/o3-mini", {"temperature": 0.5, "top_p": 0.9, "max_tokens": 7}),
        ("openai/gpt-5", {"temperature": 0.5, "max_tokens": 7, "logit_bias": {"1": 2}}),
        ("hosted_vllm/any", {"top_k": 5, "seed": 3, "service_tier": "auto"}),
    ],
)
async def test_d3_parameters_are_the_providers_to_refuse(
    provider: Provider, model: str, fields: dict[str, Any]
) -> None:
    reply = await ask(provider, "chat", "any", model, {**HI, **fields})
    assert reply.status == 200
    assert {name: provider.body.get(name) for name in fields} == fields


@pytest.mark.parametrize("model", ["openai/gpt-4o-mini", "openai/gpt-5", "hosted_vllm/any"])
async def test_d3_metadata_developer_and_null_arrive(provider: Provider, model: str) -> None:
    messages = [
        {"role": "developer", "content": "be nice"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c", "content": "1"},
    ]
    await ask(provider, "chat", "any", model, {"messages": messages, "metadata": {"a": "b"}})
    assert provider.body["messages"] == messages
    assert provider.body["metadata"] == {"a": "b"}


async def test_d3_a_refusal_stands_where_it_was_and_nothing_is_added(provider: Provider) -> None:
    reply = await ask(provider, "chat", "any", "openai/rich", HI)
    assert reply.json["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": None, "refusal": "I will not."},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert reply.json["usage"] == OPENAI_RICH["usage"]
    assert set(reply.json) == {"id", "object", "created", "model", "choices", "usage"}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 503])
async def test_d3_errors_retry_headers_and_one_attempt(provider: Provider, status: int, stream: bool) -> None:
    reply = await ask(provider, "chat", "any", f"openai/err{status}", {**HI, "stream": stream})
    assert reply.status == status
    assert reply.json == {
        "error": {"message": "Slow down please.", "type": "weird_type", "param": "temperature", "code": "c1"}
    }
    assert (reply.headers["retry-after"], reply.headers["x-request-id"]) == ("7", "req_1")
    assert len(provider.hits) == 1


@pytest.mark.parametrize(
    ("upstream", "model", "named"),
    [
        ("claude", "claude-x", "claude-real"),
        ("any", "openai/gpt-x", "gpt-real"),
        ("any", "hosted_vllm/x", "gpt-real"),
    ],
)
async def test_d3_a_stream_names_the_model_that_answers(
    provider: Provider, upstream: str, model: str, named: str
) -> None:
    whole = await ask(provider, "chat", upstream, model, HI)
    streamed = await ask(provider, "chat", upstream, model, {**HI, "stream": True})
    assert whole.json["model"] == named
    assert {chunk["model"] for chunk in streamed.events[:-1]} == {named}


async def test_d3_messages_too_name_the_model_that_answers(provider: Provider) -> None:
    reply = await ask(provider, "messages", "openai", "gpt-x", {**HI_CLAUDE, "stream": True})
    assert reply.events[0]["message"]["model"] == "gpt-real"


async def test_d3_the_usage_chunk_has_no_choices_and_nothing_invented(provider: Provider) -> None:
    body = {**HI, "stream": True, "stream_options": {"include_usage": True}}
    reply = await ask(provider, "chat", "any", "openai/gpt-x", body)
    *chunks, last, done = reply.events
    assert done == "[DONE]"
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
    assert all(chunk["usage"] is None for chunk in chunks)
    without = await ask(provider, "chat", "any", "openai/gpt-x", {**HI, "stream": True})
    assert all("usage" not in chunk and chunk["choices"] for chunk in without.events[:-1])


@pytest.mark.parametrize("behaviour", ["cut", "quiet-cut", "midway"])
@pytest.mark.parametrize(
    ("dialect", "upstream", "prefix", "body"),
    [
        ("chat", "claude", "", HI),
        ("chat", "any", "openai/", HI),
        ("messages", "openai", "", HI_CLAUDE),
        ("responses", "claude", "", INPUT),
    ],
)
async def test_d3_a_stream_that_breaks_off_is_never_completed(
    provider: Provider, dialect: Dialect, upstream: str, prefix: str, body: dict[str, Any], behaviour: str
) -> None:
    """Cut, ended in order before the provider said why, or with an error inside: the SDK would say ``stop``."""
    got: list[bytes] = []
    with pytest.raises(UpstreamBroken) as caught:
        await ask(provider, dialect, upstream, prefix + behaviour, {**body, "stream": True}, into=got)
    assert b"hel" in b"".join(got)
    for end in (b"[DONE]", b"message_stop", b"response.completed", b'"finish_reason":"stop"'):
        assert end not in b"".join(got)
    assert caught.value.started
    assert ("Overloaded midway." in str(caught.value)) == (behaviour == "midway")
    assert "aiohttp" not in str(caught.value)
    assert "Error" not in str(caught.value)


@pytest.mark.parametrize(("dialect", "body"), [("chat", HI), ("messages", HI_CLAUDE)])
@pytest.mark.parametrize("stream", [True, False])
async def test_d3_a_page_of_html_is_no_message(
    provider: Provider, dialect: Dialect, body: dict[str, Any], stream: bool
) -> None:
    for upstream in ("openai", "claude"):
        if (dialect, upstream) not in (("chat", "openai"), ("messages", "claude")):
            reply = await ask(provider, dialect, upstream, "html", {**body, "stream": stream})
            assert reply.status == 502
            assert "<html" not in reply.raw.decode()
            assert "litellm" not in reply.raw.decode().lower()


async def test_d3_headers_of_the_provider_under_their_own_names(provider: Provider) -> None:
    reply = await ask(provider, "chat", "any", "openai/gpt-x", HI)
    assert reply.headers["request-id"] == "req_3"
    assert reply.headers["x-ratelimit-remaining-requests"] == "41"
    assert not any(name.startswith("llm_provider") for name in reply.headers)


async def test_what_the_sdk_adds_to_responses_stays_behind(provider: Provider) -> None:
    reply = await ask(provider, "responses", "claude", "claude-x", INPUT)
    assert "provider_specific_fields" not in reply.json
    assert reply.json["usage"] == {
        "input_tokens": 16, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 21,
    }  # fmt: skip
    streamed = await ask(provider, "responses", "claude", "claude-x", {**INPUT, "stream": True})
    assert "provider_specific_fields" not in streamed.raw.decode()


async def test_a_refusal_reaches_a_caller_of_messages(provider: Provider) -> None:
    reply = await ask(provider, "messages", "openai", "rich", HI_CLAUDE)
    assert reply.json["content"] == [{"type": "text", "text": "I will not."}]
    assert reply.json["stop_reason"] == "refusal"


# --- Claude in its own format through the SDK (as on Bedrock and Vertex) ----------------------------------------------


async def test_claude_in_its_own_format_is_passed_on_as_it_is(provider: Provider) -> None:
    system = [{"type": "text", "text": "be nice", "cache_control": {"type": "ephemeral"}}]
    body = {**HI_CLAUDE, "system": system, "metadata": {"user_id": "u-1"}, "top_k": 3}
    reply = await ask(provider, "messages", "any", "anthropic/claude-x", body)
    assert provider.hits[0][0].endswith("/messages")
    assert (provider.body["system"], provider.body["top_k"]) == (system, 3)
    assert reply.json == ANTHROPIC_WHOLE
    assert reply.headers["request-id"] == "req_3"
    streamed = await ask(provider, "messages", "any", "anthropic/claude-x", {**body, "stream": True})
    assert streamed.raw == b"".join(anthropic_frames())
    assert streamed.headers["request-id"] == "req_2"


@pytest.mark.parametrize("stream", [True, False])
async def test_errors_of_claude_in_its_own_format(provider: Provider, stream: bool) -> None:
    reply = await ask(provider, "messages", "any", "anthropic/err529-claude", {**HI_CLAUDE, "stream": stream})
    assert reply.status == 529
    assert reply.json == {"type": "error", "error": {"type": "overloaded_error", "message": "Slow down please."}}
    assert reply.headers["retry-after"] == "7"
    assert len(provider.hits) == 1


# --- through the door -------------------------------------------------------------------------------------------------

WAYS = {
    "chat to Anthropic": ("/v1/chat/completions", "c-", HI),
    "chat to OpenAI by the SDK": ("/v1/chat/completions", "o-", HI),
    "messages to OpenAI": ("/v1/messages", "g-", HI_CLAUDE),
    "messages to Claude by the SDK": ("/v1/messages", "n-", HI_CLAUDE),
    "responses to Anthropic": ("/v1/responses", "c-", INPUT),
}


@pytest.fixture
async def gateway(provider: Provider, tmp_path: Path) -> AsyncIterator[Door]:
    own = {"api_key": "sk-ours"}
    upstreams = [
        {"name": "claude", "dialect": "anthropic", "base_url": provider.url, **own},
        {"name": "gpt", "dialect": "openai", "base_url": f"{provider.url}/v1", **own},
        {"name": "sdk", "dialect": "litellm", "base_url": f"{provider.url}/v1", **own},
    ]
    models = [
        {"name": "c-*", "upstream": "claude", "model": "*"},
        {"name": "g-*", "upstream": "gpt", "model": "*"},
        {"name": "o-*", "upstream": "sdk", "model": "openai/*"},
        {"name": "n-*", "upstream": "sdk", "model": "anthropic/claude-*"},
    ]
    settings = settings_for(tmp_path, *upstreams, models=models, gateway={"keepalive": 0.15})
    async with door(settings) as running:
        yield running


@pytest.mark.parametrize("way", sorted(WAYS))
@pytest.mark.parametrize(("phase", "model"), [("head", "silent"), ("first token", "mute"), ("mid-stream", "endless")])
async def test_d39_a_caller_that_leaves_cancels_the_translated_call_in_every_phase(
    gateway: Door, provider: Provider, way: str, phase: str, model: str
) -> None:
    path, prefix, body = WAYS[way]
    await gateway.ask({**body, "model": f"{prefix}x"}, path)  # the SDK is loaded, which takes seconds the first time
    provider.gone.clear()
    provider.hits.clear()
    async with aiohttp.ClientSession() as session:
        sent = {**body, "model": prefix + model, "stream": True}
        asking = asyncio.create_task(session.post(gateway.url + path, json=sent, headers=AUTH))
        async with asyncio.timeout(5):
            while not provider.hits:
                await asyncio.sleep(0.01)
            if phase == "mid-stream":
                got = b""
                async for piece in (await asking).content.iter_any():
                    got += piece
                    if b"hel" in got:
                        break
            else:
                await asyncio.sleep(0.1)
        asking.cancel()
    async with asyncio.timeout(1):
        await provider.gone.wait()
        while gateway.worker.pipeline.in_flight:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("way", sorted(WAYS))
@pytest.mark.parametrize("model", ["cut", "quiet-cut", "midway"])
async def test_d37_a_translated_stream_that_breaks_ends_with_an_error_event(
    gateway: Door, way: str, model: str
) -> None:
    path, prefix, body = WAYS[way]
    _, _, raw = await gateway.ask({**body, "model": prefix + model, "stream": True}, path)
    assert b"hel" in raw
    for end in (b"[DONE]", b"message_stop", b"response.completed"):
        assert end not in raw
    last = raw.rstrip().split(b"\n\n")[-1]
    said = json.loads(last.split(b"data: ", 1)[1])
    assert said["error"]["message"]
    assert (said.get("type") == "error") == (path == "/v1/messages")


@pytest.mark.parametrize("way", sorted(WAYS.keys() - {"responses to Anthropic"}))  # there the SDK speaks at once
@pytest.mark.parametrize(("phase", "model"), [("head", "silent"), ("first token", "mute")])
async def test_d41_comments_keep_a_slow_translated_stream_alive(
    gateway: Door, way: str, phase: str, model: str
) -> None:
    path, prefix, body = WAYS[way]
    await gateway.ask({**body, "model": f"{prefix}x"}, path)
    async with gateway.post({**body, "model": prefix + model, "stream": True}, path) as reply, asyncio.timeout(5):
        assert reply.status == 200
        got = b""
        while got.count(b": waiting\n\n") < 3:
            got += await reply.content.readany()
