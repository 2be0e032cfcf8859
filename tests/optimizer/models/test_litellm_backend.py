"""The LiteLLM backend against real HTTP on loopback: the same promises as the thin client's."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web

from optimizer.errors import EndpointDown, EndpointRefused
from optimizer.models.litellm import LiteLLM
from optimizer.records import ModelSpec, Request
from tests.optimizer.endpoint import chat, problem, serve

ASK = Request(role="base", messages=(("system", "S"), ("user", "Hi")), temperature=0.0, max_tokens=7)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """LiteLLM warns about its own dependencies; that is not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def backend(url: str, notes: list[str] | None = None, **more: Any) -> LiteLLM:
    async def nap(seconds: float) -> None:
        return None

    spec = ModelSpec(model="openai/tiny", api_base=url, api_key="k", **more)
    return LiteLLM(spec, note=(notes if notes is not None else []).append, rng=random.Random(1), sleep=nap)


async def test_a_reply_with_its_tokens() -> None:
    async with serve(lambda body: chat("Hello there", finish="length")) as endpoint:
        reply = await backend(endpoint.url).complete(ASK)
    assert (reply.text, reply.finish, reply.tokens_in, reply.tokens_out) == ("Hello there", "length", 10, 2)
    assert endpoint.bodies[0]["max_tokens"] == 7


async def test_transient_failures_are_tried_again() -> None:
    replies = iter([problem(429, "slow down"), problem(503, "busy"), chat("ok")])
    async with serve(lambda body: next(replies)) as endpoint:
        model = backend(endpoint.url)
        assert (await model.complete(ASK)).text == "ok"
    assert model.retries == 2


async def test_429_for_ever_and_a_wrong_key_stop_the_run() -> None:
    async with serve(lambda body: problem(429, "slow down")) as endpoint:
        with pytest.raises(EndpointDown, match=r"3 attempts.*--resume"):
            await backend(endpoint.url, retries=2).complete(ASK)
    async with serve(lambda body: problem(401, "bad key")) as endpoint:
        with pytest.raises(EndpointRefused, match="Check the API key"):
            await backend(endpoint.url).complete(ASK)
        assert len(endpoint.bodies) == 1


async def test_a_refused_parameter_is_dropped_and_noted() -> None:
    def picky(body: dict[str, Any]) -> str | web.Response:
        return problem(400, "temperature is deprecated for this model") if "temperature" in body else "fine"

    notes: list[str] = []
    async with serve(picky) as endpoint:
        model = backend(endpoint.url, notes)
        assert (await model.complete(ASK)).text == "fine"
        assert (await model.complete(ASK)).text == "fine"
    assert len(endpoint.bodies) == 3
    assert notes == ["openai/tiny refuses the parameter temperature: it is no longer sent."]


async def test_another_bad_request_stops_the_run() -> None:
    async with serve(lambda body: problem(400, "messages: too strange")) as endpoint:
        with pytest.raises(EndpointRefused, match="too strange"):
            await backend(endpoint.url).complete(ASK)
