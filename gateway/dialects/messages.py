"""Anthropic messages."""

from __future__ import annotations

from typing import ClassVar

from gateway.body import Body, Edit, mentions
from gateway.dialects import turns
from gateway.dialects.base import Speech
from gateway.errors import BadRequest
from gateway.exchange import Dialect, Wire
from gateway.prompt import Prompt


class Messages(Speech):
    """``system`` is the system prompt: a string or text blocks, whose order and ``cache_control`` are kept."""

    name: ClassVar[Dialect] = "messages"
    path: ClassVar[str] = "/messages"
    wire: ClassVar[Wire] = "anthropic"
    injects: ClassVar[bool] = True

    def read(self, body: Body) -> None:
        if not body.model:
            raise BadRequest("model: Field required", param="model")
        if "messages" not in body:
            raise BadRequest("messages: Field required", param="messages")
        if body.peek("messages") != 0x5B:
            raise BadRequest("messages: Input should be a valid list", param="messages")
        if body.peek("system") not in (0, 0x22, 0x5B, 0x6E):
            raise BadRequest("system: Input should be a valid string or list", param="system")

    def inject(self, body: Body, prompt: Prompt, *, only_fill: bool) -> list[Edit] | None:
        if _is_empty(body, "messages"):
            return None  # the provider refuses an empty conversation: it must stay empty
        kind = body.peek("system")
        if kind in (0x22, 0x5B) and only_fill:
            return None
        if kind == 0x22:
            start, end = body.span("system")
            return [(start, end, b'"%b"' % prompt.around_text(body.raw[start + 1 : end - 1]))]
        if kind == 0x5B:
            start, end = body.span("system")
            return [(start, end, prompt.around_parts(body.raw[start:end]))]
        if not prompt.alone:
            return []
        ours = b'"%b"' % prompt.alone
        if prompt.breakpoint and not mentions(body.raw, b'"cache_control"'):
            ours = b'[{"type":"text","text":"%b","cache_control":{"type":"ephemeral"}}]' % prompt.alone
        if kind == 0x6E:
            return [(*body.span("system"), ours)]
        return [body.insert_first("system", ours)]

    def system_text(self, body: Body) -> str:
        if body.peek("system") not in (0x22, 0x5B):
            return ""
        start, end = body.span("system")
        return turns.plain_text(body.raw[start:end])

    def first_user_text(self, body: Body) -> bytes | memoryview:
        return turns.first_user_text(body, "messages")


def _is_empty(body: Body, key: str) -> bool:
    start, end = body.span(key)
    return end - start < 64 and not body.raw[start + 1 : end - 1].strip(b" \t\r\n")


class CountTokens(Messages):
    """Counting is passed through; the prompt is injected, so that the count is what a message would cost."""

    path: ClassVar[str] = "/messages/count_tokens"
