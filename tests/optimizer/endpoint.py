"""A real OpenAI-compatible endpoint on loopback whose answers a test decides."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any

from aiohttp import web

Answer = Callable[[dict[str, Any]], "str | web.Response | Awaitable[str | web.Response]"]


@dataclass
class Endpoint:
    """The running server: its address, and every body it was sent."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most_at_once: int = 0
    at_once: int = 0


def chat(
    text: str, *, finish: str = "stop", refusal: str | None = None, headers: dict[str, str] | None = None
) -> web.Response:
    """A chat completion that says ``text``; one token per word."""
    message = {"role": "assistant", "content": text, "refusal": refusal}
    usage = {"prompt_tokens": 10, "completion_tokens": len(text.split())}
    return web.json_response(
        {"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage}, headers=headers
    )


def problem(
    status: int, message: str, *, code: str = "", param: str = "", headers: dict[str, str] | None = None
) -> web.Response:
    """An error in OpenAI's shape."""
    error = {"message": message, "type": "invalid_request_error", "code": code or None, "param": param or None}
    return web.json_response({"error": error}, status=status, headers=headers)


@asynccontextmanager
async def serve(answer: Answer) -> AsyncIterator[Endpoint]:
    """Answer every chat completion by ``answer(body)``: a text, a response, or an awaitable of one."""
    endpoint = Endpoint()

    async def handle(request: web.Request) -> web.Response:
        body = await request.json()
        endpoint.bodies.append(body)
        endpoint.headers.append(dict(request.headers))
        endpoint.at_once += 1
        endpoint.most_at_once = max(endpoint.most_at_once, endpoint.at_once)
        try:
            said = answer(body)
            if isawaitable(said):
                said = await said
        finally:
            endpoint.at_once -= 1
        return said if isinstance(said, web.Response) else chat(said)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]
    endpoint.url = f"http://127.0.0.1:{port}/v1"
    try:
        yield endpoint
    finally:
        await runner.cleanup()
