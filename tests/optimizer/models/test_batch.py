"""Batch execution against loopback servers that speak the providers' batch dialects, through the official SDKs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from optimizer.errors import EndpointDown, EndpointRefused
from optimizer.evaluation.evaluation import Evaluation
from optimizer.models.batch import Batched
from optimizer.models.batch_anthropic import AnthropicBatches
from optimizer.models.batch_openai import OpenAIBatches
from optimizer.records import Example, JudgeSpec, Models, ModelSpec, Request, SearchSpec, SearchTask
from optimizer.run.journal import Journal


class Provider:
    """Both providers' batch endpoints: a batch ends after ``polls`` looks at it."""

    def __init__(self, answer: Callable[[dict[str, Any]], dict[str, Any]], polls: int = 1) -> None:
        self.answer = answer
        self.polls = polls
        self.batches: dict[str, list[dict[str, Any]]] = {}
        self.looks: dict[str, int] = {}
        self.files: dict[str, bytes] = {}
        self.url = ""

    def _begin(self, entries: list[dict[str, Any]]) -> str:
        name = f"batch_{len(self.batches)}"
        self.batches[name], self.looks[name] = entries, 0
        return name

    def _ended(self, name: str) -> bool:
        self.looks[name] += 1
        return self.looks[name] > self.polls

    async def upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        part = form["file"]
        assert isinstance(part, web.FileField)
        name = f"file_{len(self.files)}"
        self.files[name] = part.file.read()
        file = {"id": name, "object": "file", "bytes": 1, "created_at": 1, "filename": "x", "purpose": "batch"}
        return web.json_response({**file, "status": "processed"})

    def _openai(self, name: str, status: str, output: str | None = None) -> web.Response:
        return web.json_response(
            {
                "id": name,
                "object": "batch",
                "completion_window": "24h",
                "created_at": 1,
                "endpoint": "/v1/chat/completions",
                "input_file_id": "file_0",
                "status": status,
                "output_file_id": output,
            }
        )

    async def create_openai(self, request: web.Request) -> web.Response:
        body = await request.json()
        lines = [json.loads(line) for line in self.files[body["input_file_id"]].splitlines()]
        return self._openai(self._begin(lines), "validating")

    async def get_openai(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if not self._ended(name):
            return self._openai(name, "in_progress")
        lines = []
        for entry in self.batches[name]:
            response = self.answer(entry["body"])
            lines.append(json.dumps({"custom_id": entry["custom_id"], "response": response}))
        self.files[f"out_{name}"] = "\n".join(lines).encode()
        return self._openai(name, "completed", f"out_{name}")

    async def content(self, request: web.Request) -> web.Response:
        return web.Response(body=self.files[request.match_info["name"]])

    def _anthropic(self, name: str, status: str) -> web.Response:
        counts = {"canceled": 0, "errored": 0, "expired": 0, "processing": 0, "succeeded": 1}
        return web.json_response(
            {
                "id": name,
                "type": "message_batch",
                "processing_status": status,
                "request_counts": counts,
                "created_at": "2026-01-01T00:00:00Z",
                "expires_at": "2026-01-02T00:00:00Z",
                "results_url": f"{self.url}/v1/messages/batches/{name}/results" if status == "ended" else None,
            }
        )

    async def create_anthropic(self, request: web.Request) -> web.Response:
        return self._anthropic(self._begin((await request.json())["requests"]), "in_progress")

    async def get_anthropic(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return self._anthropic(name, "ended" if self._ended(name) else "in_progress")

    async def results(self, request: web.Request) -> web.Response:
        entries = self.batches[request.match_info["name"]]
        lines = [
            json.dumps({"custom_id": entry["custom_id"], "result": self.answer(entry["params"])}) for entry in entries
        ]
        return web.Response(text="\n".join(lines), content_type="application/x-jsonl")


@asynccontextmanager
async def serve(provider: Provider) -> AsyncIterator[str]:
    app = web.Application(client_max_size=64 * 1024**2)
    app.router.add_post("/v1/files", provider.upload)
    app.router.add_get("/v1/files/{name}/content", provider.content)
    app.router.add_post("/v1/batches", provider.create_openai)
    app.router.add_get("/v1/batches/{name}", provider.get_openai)
    app.router.add_post("/v1/messages/batches", provider.create_anthropic)
    app.router.add_get("/v1/messages/batches/{name}", provider.get_anthropic)
    app.router.add_get("/v1/messages/batches/{name}/results", provider.results)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    provider.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    try:
        yield provider.url
    finally:
        await runner.cleanup()


def openai_says(body: dict[str, Any]) -> dict[str, Any]:
    text = f"echo {body['messages'][-1]['content']}"
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"status_code": 200, "body": {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}}


def anthropic_says(params: dict[str, Any]) -> dict[str, Any]:
    message = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [{"type": "text", "text": f"{params.get('system', '-')}|{params['messages'][-1]['content']}"}],
        "stop_reason": "max_tokens",
        "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 2, "cache_read_input_tokens": 5},
    }
    return {"type": "succeeded", "message": message}


def ask(text: str, **more: Any) -> Request:
    return Request(role="base", messages=(("system", "S"), ("user", text)), temperature=0.0, max_tokens=9, **more)


def batched(lane: Any, journal: Journal, spec: ModelSpec) -> Batched:
    return Batched(spec, lane, journal, gather_seconds=0.01, poll_seconds=0.01)


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    opened = Journal(tmp_path / "run.journal")
    yield opened
    opened.close()


async def test_many_callers_one_batch_openai(journal: Journal) -> None:
    provider = Provider(openai_says)
    async with serve(provider) as url:
        spec = ModelSpec(model="openai/gpt", api_base=f"{url}/v1", api_key="k")
        backend = batched(OpenAIBatches(spec, "gpt", note=lambda text: None), journal, spec)
        replies = await asyncio.gather(*(backend.complete(ask(f"q{i}")) for i in range(30)))
        await backend.close()
    assert [reply.text for reply in replies] == [f"echo q{i}" for i in range(30)]
    assert len(provider.batches) == 1
    assert replies[0].tokens_in == 3


async def test_many_callers_one_batch_anthropic(journal: Journal) -> None:
    provider = Provider(anthropic_says)
    async with serve(provider) as url:
        spec = ModelSpec(model="anthropic/claude", api_base=url, api_key="k")
        backend = batched(AnthropicBatches(spec, "claude", note=lambda text: None), journal, spec)
        replies = await asyncio.gather(*(backend.complete(ask(f"q{i}")) for i in range(5)))
        await backend.close()
    assert [reply.text for reply in replies] == [f"S|q{i}" for i in range(5)]
    assert replies[0].finish == "length"
    assert (replies[0].tokens_in, replies[0].tokens_cached) == (8, 5)
    assert len(provider.batches) == 1


async def test_a_killed_run_waits_for_the_same_batch(journal: Journal) -> None:
    provider = Provider(openai_says, polls=10**6)
    async with serve(provider) as url:
        spec = ModelSpec(model="openai/gpt", api_base=f"{url}/v1", api_key="k")
        first = batched(OpenAIBatches(spec, "gpt", note=lambda text: None), journal, spec)
        waiting = asyncio.gather(*(first.complete(ask(f"q{i}")) for i in range(3)))
        while not provider.batches or not provider.looks["batch_0"]:
            await asyncio.sleep(0.005)
        waiting.cancel()
        await first.close()
        provider.polls = 0
        second = batched(OpenAIBatches(spec, "gpt", note=lambda text: None), journal, spec)
        replies = await asyncio.gather(*(second.complete(ask(f"q{i}")) for i in range(4)))
        await second.close()
    assert [reply.text for reply in replies] == [f"echo q{i}" for i in range(4)]
    assert [len(entries) for entries in provider.batches.values()] == [3, 1]


async def test_a_refused_parameter_is_dropped_and_the_request_sent_again(journal: Journal) -> None:
    def picky(body: dict[str, Any]) -> dict[str, Any]:
        if "temperature" in body:
            error = {"message": "Unsupported value: 'temperature'", "param": "temperature"}
            return {"status_code": 400, "body": {"error": error}}
        return openai_says(body)

    notes: list[str] = []
    provider = Provider(picky)
    async with serve(provider) as url:
        spec = ModelSpec(model="openai/gpt", api_base=f"{url}/v1", api_key="k")
        backend = batched(OpenAIBatches(spec, "gpt", note=notes.append), journal, spec)
        replies = await asyncio.gather(*(backend.complete(ask(f"q{i}")) for i in range(3)))
        await backend.close()
    assert [reply.text for reply in replies] == ["echo q0", "echo q1", "echo q2"]
    assert len(provider.batches) == 2
    assert notes == ["openai/gpt refuses the parameter temperature: it is no longer sent."]


async def test_anthropic_drops_what_newer_models_refuse(journal: Journal) -> None:
    def picky(params: dict[str, Any]) -> dict[str, Any]:
        if "temperature" in params:
            error = {"type": "invalid_request_error", "message": "temperature is deprecated for this model"}
            return {"type": "errored", "error": {"type": "error", "error": error, "request_id": "r"}}
        return anthropic_says(params)

    notes: list[str] = []
    async with serve(Provider(picky)) as url:
        spec = ModelSpec(model="anthropic/claude", api_base=url, api_key="k")
        backend = batched(AnthropicBatches(spec, "claude", note=notes.append), journal, spec)
        replies = await asyncio.gather(*(backend.complete(ask(f"q{i}")) for i in range(3)))
        await backend.close()
    assert [reply.text for reply in replies] == ["S|q0", "S|q1", "S|q2"]
    assert len(notes) == 1


async def test_expired_requests_are_sent_thrice_then_the_run_stops(journal: Journal) -> None:
    async with serve(Provider(lambda params: {"type": "expired"})) as url:
        spec = ModelSpec(model="anthropic/claude", api_base=url, api_key="k")
        backend = batched(AnthropicBatches(spec, "claude", note=lambda text: None), journal, spec)
        with pytest.raises(EndpointDown, match="3 times: it was expired"):
            await backend.complete(ask("q"))
        await backend.close()


async def test_a_wrong_key_stops_the_run(journal: Journal) -> None:
    async def refuse(request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "bad key", "type": "auth"}}, status=401)

    provider = Provider(openai_says)
    provider.upload = refuse  # type: ignore[method-assign]
    async with serve(provider) as url:
        spec = ModelSpec(model="openai/gpt", api_base=f"{url}/v1", api_key="k")
        backend = batched(OpenAIBatches(spec, "gpt", note=lambda text: None), journal, spec)
        with pytest.raises(EndpointRefused, match="401"):
            await asyncio.gather(*(backend.complete(ask(f"q{i}")) for i in range(2)))
        await backend.close()


def test_a_missing_key_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(EndpointRefused, match="OPENAI_API_KEY"):
        OpenAIBatches(ModelSpec(model="openai/gpt"), "gpt", note=lambda text: None)


async def test_rollouts_through_a_batch_end_to_end(tmp_path: Path) -> None:
    rows = tuple(Example(id=str(i), question=f"q{i}", answers=(f"echo q{i}",)) for i in range(12))
    task = SearchTask(name="t", user_prompt="{question}", judge=JudgeSpec(kind="exact"), reflect=rows)
    provider = Provider(openai_says, polls=0)
    async with serve(provider) as url:
        model = ModelSpec(model="openai/gpt", api_base=f"{url}/v1", api_key="k", execution="batch")
        spec = SearchSpec(seed_prompt="S", tasks=(task,), models=Models(base=model), home=tmp_path)
        opened = Journal(tmp_path / "b.journal")
        backend = batched(OpenAIBatches(model, "gpt", note=lambda text: None), opened, model)
        async with Evaluation.open(spec, clock=lambda: 0.0, backends={"base": backend}) as evaluation:
            rollouts = await evaluation.rollouts("S", task, "{question}", rows)
        await backend.close()
        opened.close()
    assert all(rollout.score == 1.0 for rollout in rollouts)
    assert len(provider.batches) == 1
    assert msgspec.to_builtins(rollouts[0])["text"] == "echo q0"
