"""Unmodified OpenAI and Anthropic SDKs through the running gateway to a provider that speaks the other dialect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import anthropic
import openai
import pytest
from rig import KEY, Door, door, prompts, settings_for
from two_dialects import Provider, provider

__all__ = ["provider"]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

PROMPT = "You are terse."
HI = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def gateway(provider: Provider, tmp_path: Path) -> AsyncIterator[Door]:
    upstreams = [
        {"name": "claude", "dialect": "anthropic", "base_url": provider.url, "api_key": "sk-ours"},
        {"name": "gpt", "dialect": "openai", "base_url": f"{provider.url}/v1", "api_key": "sk-ours"},
    ]
    models = [
        {"name": "claude-x", "upstream": "claude"},
        {"name": "claude-err*", "upstream": "claude", "model": "err*"},
        {"name": "claude-endless", "upstream": "claude", "model": "endless"},
        {"name": "claude-midway", "upstream": "claude", "model": "midway"},
        {"name": "gpt-x", "upstream": "gpt"},
    ]
    async with door(settings_for(tmp_path, *upstreams, models=models), prompts(PROMPT)) as running:
        yield running


@pytest.fixture
async def chat(gateway: Door) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        api_key=KEY, base_url=f"{gateway.url}/v1", default_headers={"x-metaspo-domain": "support"}, max_retries=0
    ) as client:
        yield client


@pytest.fixture
async def messages(gateway: Door) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        api_key=KEY, base_url=gateway.url, default_headers={"x-metaspo-domain": "support"}, max_retries=0
    ) as client:
        yield client


async def test_the_openai_sdk_talks_to_claude(chat: openai.AsyncOpenAI, provider: Provider) -> None:
    raw = await chat.chat.completions.with_raw_response.create(model="claude-x", messages=HI)  # type: ignore[arg-type]
    reply = raw.parse()
    assert reply.choices[0].message.content == "hello"
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (16, 5)
    assert (raw.headers["x-metaspo-version"], raw.headers["x-metaspo-arm"]) == ("1", "stable")
    assert provider.body["system"] == [{"type": "text", "text": PROMPT}]
    assert provider.body["model"] == "claude-x"


async def test_the_openai_sdk_streams_from_claude(chat: openai.AsyncOpenAI) -> None:
    stream = await chat.chat.completions.create(
        model="claude-x",
        messages=HI,
        stream=True,
        stream_options={"include_usage": True},  # type: ignore[arg-type]
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "hello"
    assert chunks[-1].usage is not None
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 7


async def test_the_anthropic_sdk_talks_to_gpt(messages: anthropic.AsyncAnthropic, provider: Provider) -> None:
    reply = await messages.messages.create(model="gpt-x", max_tokens=50, messages=HI)  # type: ignore[arg-type]
    assert reply.content[0].text == "hello"  # type: ignore[union-attr]
    assert reply.usage.input_tokens == 11
    assert provider.body["messages"][0] == {"role": "system", "content": PROMPT}


async def test_the_anthropic_sdk_streams_from_gpt(messages: anthropic.AsyncAnthropic) -> None:
    async with messages.messages.stream(model="gpt-x", max_tokens=50, messages=HI) as stream:  # type: ignore[arg-type]
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()
    assert text == "hello"
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == 3


async def test_errors_arrive_as_the_sdks_know_them(chat: openai.AsyncOpenAI, provider: Provider) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        await chat.chat.completions.create(model="claude-err429", messages=HI)  # type: ignore[arg-type]
    assert caught.value.response.headers["retry-after"] == "7"
    assert caught.value.body == {
        "message": "Slow down please.", "type": "overloaded_error", "param": None, "code": None
    }  # fmt: skip
    assert len(provider.hits) == 1
    with pytest.raises(openai.BadRequestError) as refused:
        await chat.chat.completions.create(model="claude-x", messages=HI, extra_body={"api_base": "http://x"})  # type: ignore[arg-type]
    assert refused.value.param == "api_base"


async def test_a_reply_that_breaks_off_ends_in_an_error(chat: openai.AsyncOpenAI) -> None:
    stream = await chat.chat.completions.create(model="claude-midway", messages=HI, stream=True)  # type: ignore[arg-type]
    said = ""
    with pytest.raises(openai.APIError, match="Overloaded midway"):
        async for chunk in stream:
            said += chunk.choices[0].delta.content or ""
    assert said.startswith("hel")


async def test_a_caller_who_leaves_ends_the_call_upstream(chat: openai.AsyncOpenAI, provider: Provider) -> None:
    stream = await chat.chat.completions.create(model="claude-endless", messages=HI, stream=True)  # type: ignore[arg-type]
    await anext(aiter(stream))
    await stream.close()
    async with asyncio.timeout(2):
        await provider.gone.wait()
