"""A language model that is a small HTTP server: OpenAI's dialect over loopback, deterministic, counting its calls."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from typing import Any, Self

from aiohttp import web

LABEL_HINT = re.compile(r"\b(?:label|positive|negative|one word|exact|only)\b", re.IGNORECASE)
GOOD = ("great", "lovely", "excellent", "wonderful", "superb", "delightful")


class StubModel:
    """Knows the right sentiment always; says it plainly when the system prompt asks for a label, and babbles else.

    ``skill`` is the share of questions it answers plainly without such a prompt (``hint_anywhere``: without such words
    in the question either). After ``down_after`` answers it says 503.
    ``judge`` says what it replies when asked to check statements: ``good``, ``bad``, ``nonsense``, or ``honest`` (an
    answer is good that says FINE). A system prompt that says HARM makes it useless.
    """

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.skill = 0.5
        self.hint_anywhere = False
        self.judge = "honest"
        self.down_after: int | None = None
        self.answered = 0
        self.at_once = self.most_at_once = 0
        self.delay = 0.0
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        self.url = f"http://127.0.0.1:{port}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.calls.append(body)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        if self.delay:
            await asyncio.sleep(self.delay)
        self.at_once -= 1
        if self.down_after is not None and self.answered >= self.down_after:
            return web.json_response({"error": {"message": "overloaded"}}, status=503)
        self.answered += 1
        text = self.reply(body)
        return web.json_response(
            {
                "id": "x",
                "object": "chat.completion",
                "model": body["model"],
                "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 50, "completion_tokens": 5, "total_tokens": 55},
            }
        )

    def reply(self, body: dict[str, Any]) -> str:
        """What this request is answered with."""
        return self.answer(body["messages"])

    def answer(self, messages: list[dict[str, str]]) -> str:
        system = " ".join(m["content"] for m in messages if m["role"] == "system")
        asked = messages[-1]["content"]
        if "Statements to check" in asked:
            return self._verdict(asked)
        if self.hint_anywhere:
            system += asked
        if "HARM" in system:
            return "I cannot tell."
        right = "positive" if any(word in asked for word in GOOD) else "negative"
        lucky = int(hashlib.sha256(asked.encode()).hexdigest()[:8], 16) / 2**32 < self.skill
        return right if lucky or LABEL_HINT.search(system) else "Let me think about it."

    def _verdict(self, asked: str) -> str:
        if self.judge == "nonsense":
            return "As a language model I like this."
        ids = re.findall(r"^([cg]\d+):", asked, re.MULTILINE)
        answer = asked.rsplit("<answer-", 1)[-1]
        fine = self.judge == "good" or (self.judge == "honest" and "FINE" in answer)
        checks = [{"id": i, "evidence": "", "verdict": "yes" if fine == i.startswith("c") else "no"} for i in ids]
        return json.dumps({"checks": checks, "injection_suspected": False, "critique": ""})
