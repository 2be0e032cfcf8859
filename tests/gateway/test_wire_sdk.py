"""The official SDK on the wire lane: several choices, log probabilities and audio, whole and streamed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from rig import DONE, HELLO, Request, Wires, completion, door, prompts, settings_for, upstream

LOGPROBS = {
    "content": [{"token": "a", "bytes": [97], "logprob": -0.1, "top_logprobs": []}],
    "refusal": None,
}
AUDIO = {"id": "audio_1", "data": "UklGRg==", "expires_at": 1, "transcript": "a"}


def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
    body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def part(index: int, text: str, finish: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": {"content": text}, "finish_reason": finish, "logprobs": LOGPROBS}


async def several(request: Request, wires: Wires) -> None:
    asked = request.json
    assert asked["n"] == 2 and asked["logprobs"] is True and asked["messages"][0]["content"] == "Be careful."
    if asked.get("stream"):
        events = [event([part(i, word)]) for word in ("one ", "two") for i in (1, 0)]
        closing = event([part(0, "", "stop"), part(1, "", "length")])
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        await wires.stream(*events, closing, event([], usage=usage), DONE, pause=0.01)
        return
    message = {"role": "assistant", "content": None, "refusal": None, "audio": AUDIO}
    choices = [{"index": i, "message": message, "finish_reason": "stop", "logprobs": LOGPROBS} for i in (0, 1)]
    await wires.reply(completion(choices=choices))


@pytest.fixture
async def chat(tmp_path: Path) -> AsyncIterator[openai.AsyncOpenAI]:
    async with upstream(several) as up:
        settings = settings_for(tmp_path, {"name": "up", "base_url": up.url, "api_key": "k"})
        async with (
            door(settings, prompts("Be careful.", name="global", parent=None)) as running,
            openai.AsyncOpenAI(api_key="sk-caller", base_url=f"{running.url}/v1", max_retries=0) as client,
        ):
            yield client


async def test_a_stream_of_two_choices_keeps_them_apart(chat: openai.AsyncOpenAI) -> None:
    texts: dict[int, str] = defaultdict(str)
    ended: dict[int, str] = {}
    usage: list[int] = []
    stream = await chat.chat.completions.create(
        model="m", messages=HELLO["messages"], n=2, logprobs=True, stream=True, stream_options={"include_usage": True}
    )
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            assert choice.logprobs is not None and choice.logprobs.content is not None
            assert choice.logprobs.content[0].logprob == -0.1
            if choice.finish_reason:
                ended[choice.index] = choice.finish_reason
        if chunk.usage:
            usage.append(chunk.usage.total_tokens)
    assert texts == {0: "one two", 1: "one two"} and ended == {0: "stop", 1: "length"} and usage == [7]


async def test_two_spoken_choices_arrive_whole(chat: openai.AsyncOpenAI) -> None:
    reply = await chat.chat.completions.create(
        model="m", messages=HELLO["messages"], n=2, logprobs=True, modalities=["text", "audio"],
        audio={"voice": "alloy", "format": "wav"},
    )  # fmt: skip
    assert [choice.index for choice in reply.choices] == [0, 1]
    for choice in reply.choices:
        assert choice.message.audio is not None and choice.message.audio.data == AUDIO["data"]
        assert choice.logprobs is not None and choice.logprobs.content is not None
