"""The thin client against real HTTP: what is sent, what is tried again, what stops the run, what is dropped and
noted."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from optimizer.errors import EndpointDown, EndpointRefused, SearchFileError
from optimizer.models import open_backend
from optimizer.models.client import OpenAICompatible
from optimizer.records import Completion, ModelSpec, Request
from optimizer.run.journal import Journal
from tests.optimizer.endpoint import chat, problem, serve

ASK = Request(role="base", messages=(("user", "Hi"),), temperature=0.0, max_tokens=7)


class Naps:
    """Sleeps that take no time and are remembered."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)
        await asyncio.sleep(0)


def client_of(url: str, *, notes: list[str] | None = None, naps: Naps | None = None, **more: Any) -> OpenAICompatible:
    spec = ModelSpec(model="openai/tiny", api_base=url, **more)
    note = (notes if notes is not None else []).append
    return OpenAICompatible(spec, note=note, rng=random.Random(1), sleep=naps or Naps())


async def test_what_is_sent(tmp_path: Path) -> None:
    async with serve(lambda body: "Hello") as endpoint:
        client = client_of(endpoint.url, api_key="secret", extra={"top_k": 1})
        reply = await client.complete(ASK)
        await client.close()
    assert reply == Completion(text="Hello", tokens_in=10, tokens_out=1)
    assert endpoint.bodies == [
        {
            "model": "tiny",
            "messages": [{"role": "user", "content": "Hi"}],
            "top_k": 1,
            "max_tokens": 7,
            "temperature": 0.0,
        }
    ]
    assert endpoint.headers[0]["Authorization"] == "Bearer secret"


async def test_a_seed_goes_with_sampling_and_a_schema_with_structured_output() -> None:
    schema = {"type": "object"}
    ask = Request(role="optimizer", messages=(("user", "x"),), temperature=1.0, seed=9, max_tokens=5, schema=schema)
    async with serve(lambda body: "{}") as endpoint:
        client = client_of(endpoint.url)
        await client.complete(ask)
        await client.close()
    assert endpoint.bodies[0]["seed"] == 9
    assert endpoint.bodies[0]["response_format"]["json_schema"]["schema"] == schema


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 529])
async def test_transient_failures_are_tried_again_with_growing_waits(status: int) -> None:
    replies = iter([problem(status, "busy"), problem(status, "busy"), chat("there")])
    naps = Naps()
    async with serve(lambda body: next(replies)) as endpoint:
        client = client_of(endpoint.url, naps=naps)
        assert (await client.complete(ASK)).text == "there"
        await client.close()
    assert client.retries == 2
    assert 0.25 <= naps.taken[0] <= 0.5 <= naps.taken[1] <= 1.0


async def test_an_endpoint_that_asks_for_patience_gets_it() -> None:
    replies = iter([problem(429, "slow down", headers={"retry-after": "3"}), chat("ok")])
    naps = Naps()
    async with serve(lambda body: next(replies)) as endpoint:
        client = client_of(endpoint.url, naps=naps)
        await client.complete(ASK)
        await client.close()
    assert 3.0 <= naps.taken[0] <= 3.25


async def test_429_for_ever_ends_with_a_sentence() -> None:
    async with serve(lambda body: problem(429, "Rate limit reached")) as endpoint:
        client = client_of(endpoint.url, retries=3)
        with pytest.raises(EndpointDown, match=r"answered 429: Rate limit reached \(4 attempts\).*--resume"):
            await client.complete(ASK)
        await client.close()
    assert len(endpoint.bodies) == 4


async def test_no_credit_is_not_a_busy_endpoint() -> None:
    async with serve(lambda body: problem(429, "You exceeded your quota", code="insufficient_quota")) as endpoint:
        client = client_of(endpoint.url)
        with pytest.raises(EndpointRefused, match="Add credit"):
            await client.complete(ASK)
        await client.close()
    assert len(endpoint.bodies) == 1


@pytest.mark.parametrize(
    ("status", "advice"), [(400, "settings"), (401, "API key"), (403, "may use"), (404, "name and api_base")]
)
async def test_refusals_are_not_tried_again(status: int, advice: str) -> None:
    async with serve(lambda body: problem(status, "No such luck")) as endpoint:
        client = client_of(endpoint.url)
        with pytest.raises(EndpointRefused, match=rf"{status}: No such luck\. .*{advice}"):
            await client.complete(ASK)
        await client.close()
    assert len(endpoint.bodies) == 1


async def test_a_key_that_the_endpoint_repeats_is_masked() -> None:
    async with serve(lambda body: problem(401, "No such key: sk-secret")) as endpoint:
        client = client_of(endpoint.url, api_key="sk-secret")
        with pytest.raises(EndpointRefused, match=r"No such key: \*\*\*"):
            await client.complete(ASK)
        await client.close()


async def test_refused_parameters_are_dropped_once_and_noted() -> None:
    def picky(body: dict[str, Any]) -> str | web.Response:
        if "temperature" in body:
            return problem(400, "`temperature` is deprecated for this model.")
        if "max_tokens" in body:
            return problem(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'.", param="max_tokens")
        return f"{body['max_completion_tokens']}"

    notes: list[str] = []
    async with serve(picky) as endpoint:
        client = client_of(endpoint.url, notes=notes)
        assert (await client.complete(ASK)).text == "7"
        assert (await client.complete(ASK)).text == "7"
        await client.close()
    assert len(endpoint.bodies) == 4
    assert client.retries == 0
    assert notes == [
        "openai/tiny refuses the parameter temperature: it is no longer sent.",
        "openai/tiny refuses the parameter max_tokens: it is no longer sent; max_completion_tokens is sent instead.",
    ]


async def test_a_refused_parameter_in_many_calls_at_once_is_noted_once() -> None:
    async def picky(body: dict[str, Any]) -> str | web.Response:
        await asyncio.sleep(0.02)
        return problem(400, "temperature is not supported") if "temperature" in body else "fine"

    notes: list[str] = []
    async with serve(picky) as endpoint:
        client = client_of(endpoint.url, notes=notes)
        replies = await asyncio.gather(*(client.complete(ASK) for _ in range(8)))
        await client.close()
    assert {reply.text for reply in replies} == {"fine"}
    assert len(notes) == 1


@pytest.mark.parametrize("body", [b"", b"   "])
async def test_an_empty_body_is_tried_again(body: bytes) -> None:
    replies = iter([web.Response(body=body), chat("ok")])
    async with serve(lambda sent: next(replies)) as endpoint:
        client = client_of(endpoint.url)
        assert (await client.complete(ASK)).text == "ok"
        await client.close()


async def test_a_web_page_stops_the_run() -> None:
    page = "<!doctype html><title>Sign in</title>"
    async with serve(lambda body: web.Response(text=page, content_type="text/html")) as endpoint:
        client = client_of(endpoint.url)
        with pytest.raises(EndpointRefused, match=r"a web page instead of JSON.*/v1"):
            await client.complete(ASK)
        await client.close()


@pytest.mark.parametrize("body", ['{"ok": true}', "[1, 2]", "not json at all"])
async def test_json_of_another_kind_stops_the_run(body: str) -> None:
    async with serve(lambda sent: web.Response(text=body)) as endpoint:
        client = client_of(endpoint.url)
        with pytest.raises(EndpointRefused, match="no chat completion"):
            await client.complete(ASK)
        await client.close()


async def test_half_characters_are_data() -> None:
    raw = b'{"choices": [{"message": {"content": "caf\\ud83d \xff"}, "finish_reason": "length"}]}'
    async with serve(lambda body: web.Response(body=raw, content_type="application/json")) as endpoint:
        client = client_of(endpoint.url)
        reply = await client.complete(ASK)
        await client.close()
    assert (reply.text, reply.finish) == ("caf? \ufffd", "length")


async def test_an_endless_body_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optimizer.models.client._LARGEST_REPLY", 1024**2)
    async with serve(lambda body: web.Response(body=b" " * (2 * 1024**2))) as endpoint:
        client = client_of(endpoint.url)
        with pytest.raises(EndpointRefused, match="more than 1 MiB"):
            await client.complete(ASK)
        await client.close()


@pytest.mark.parametrize(
    ("status", "message", "detail"),
    [
        (
            400,
            "This model's maximum context length is 2048 tokens, you sent 3000 (see max_tokens)",
            "context_length_exceeded",
        ),
        (400, "the request exceeds the available context size", "context_length_exceeded"),
        (400, "The response was filtered: content management policy", "content_filter"),
        (413, "Prompt is too long", "context_length_exceeded"),
    ],
)
async def test_a_request_that_alone_is_at_fault_is_data(status: int, message: str, detail: str) -> None:
    async with serve(lambda body: problem(status, message)) as endpoint:
        client = client_of(endpoint.url)
        reply = await client.complete(ASK)
        await client.close()
    assert (reply.finish, reply.detail) == ("filter", detail)


async def test_nobody_there_is_told_quickly(free_port: int) -> None:
    client = client_of(f"http://127.0.0.1:{free_port}/v1")
    with pytest.raises(EndpointDown, match=r"cannot be reached.*\(2 attempts\)"):
        await client.complete(ASK)
    await client.close()


async def test_a_slow_endpoint_runs_into_the_timeout() -> None:
    async def slow(body: dict[str, Any]) -> str:
        await asyncio.sleep(1)
        return "late"

    async with serve(slow) as endpoint:
        client = client_of(endpoint.url, timeout=0.05, retries=1)
        with pytest.raises(EndpointDown, match=r"within 0\.05 s"):
            await client.complete(ASK)
        await client.close()


async def test_no_more_at_once_than_allowed() -> None:
    async def answer(body: dict[str, Any]) -> str:
        await asyncio.sleep(0.005)
        return "ok"

    async with serve(answer) as endpoint:
        client = client_of(endpoint.url, concurrency=3)
        await asyncio.gather(*(client.complete(ASK) for _ in range(20)))
        await client.close()
    assert endpoint.most_at_once == 3


async def test_content_in_parts_is_joined() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    reply = {"choices": [{"message": {"role": "assistant", "content": parts}, "finish_reason": "stop"}]}
    async with serve(lambda body: web.json_response(reply)) as endpoint:
        client = client_of(endpoint.url)
        assert (await client.complete(ASK)).text == "Hello"
        await client.close()


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (ModelSpec(model="openai/gpt-4o-mini"), "OpenAICompatible"),
        (ModelSpec(model="qwen", api_base="http://127.0.0.1:1/v1"), "OpenAICompatible"),
        (ModelSpec(model="Qwen/Qwen2.5-0.5B", api_base="http://127.0.0.1:1/v1"), "OpenAICompatible"),
        (ModelSpec(model="anthropic/claude-sonnet-4-5"), "LiteLLM"),
        (ModelSpec(model="azure/gpt-4o", api_base="https://example.invalid"), "LiteLLM"),
        (ModelSpec(model="claude-haiku-4-5"), "LiteLLM"),
        (ModelSpec(model="openai/gpt-4o-mini", execution="batch", api_key="k"), "Batched"),
        (ModelSpec(model="anthropic/claude-haiku-4-5", execution="batch", api_key="k"), "Batched"),
    ],
)
async def test_which_backend_serves_which_name(spec: ModelSpec, kind: str, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "x.journal")
    backend = open_backend(spec, journal=journal, note=lambda text: None)
    assert type(backend).__name__ == kind
    await backend.close()
    journal.close()


def test_a_name_that_nobody_serves(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "x.journal")
    with pytest.raises(SearchFileError, match="needs a provider"):
        open_backend(ModelSpec(model="tiny"), journal=journal, note=lambda text: None)
    with pytest.raises(SearchFileError, match="no batch endpoint"):
        open_backend(ModelSpec(model="cohere/x", execution="batch"), journal=journal, note=lambda text: None)
    journal.close()
