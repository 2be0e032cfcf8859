"""What the pipeline asks of a dialect, and the dialects that carry no system prompt."""

from __future__ import annotations

import re
from typing import ClassVar

import msgspec

from gateway.body import Body, Edit
from gateway.errors import BadRequest
from gateway.exchange import Dialect, Wire
from gateway.prompt import Prompt

_text = msgspec.json.Decoder(str).decode
_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

USER_FIELDS = ("user", "safety_identifier")
"""Top-level fields that name the end user, in order of trust."""
UNIT_FIELDS = frozenset((*USER_FIELDS, "metadata", "prompt_cache_key"))


class Speech:
    """One dialect. Instances hold no state: one each serves all requests."""

    name: ClassVar[Dialect]
    path: ClassVar[str]
    """Below the base URL of an OpenAI upstream; ``/v1`` stands in front of it for callers."""
    wire: ClassVar[Wire] = "openai"
    injects: ClassVar[bool] = False
    required: ClassVar[str] = ""
    """The array that makes a request of this dialect: missing or of another type is refused."""

    def __init__(self) -> None:
        # asked of each request: Python finds what an instance has sooner than what its class has
        vars(self).update(
            {name: getattr(self, name) for name in ("name", "path", "wire", "injects") if hasattr(self, name)}
        )

    def read(self, body: Body) -> None:
        """Check what must be there. Raises BadRequest."""
        if not body.model:
            raise BadRequest("You must provide a model parameter.", param="model")

    def inject(self, body: Body, prompt: Prompt, *, only_fill: bool) -> list[Edit] | None:
        """The edits that make ``prompt`` the leading system prompt; None when nothing may be injected."""
        del body, prompt, only_fill
        return None

    def system_text(self, body: Body) -> str:
        """How the request's own system prompt begins, as plain text; empty when it brings none."""
        del body
        return ""

    def unit(self, body: Body) -> str:
        """The end user or conversation that the body names, or ``""``."""
        if UNIT_FIELDS.isdisjoint(body.values):
            return ""
        for field in USER_FIELDS:
            if field in body and (value := body.text(field)):
                return value
        if body.peek("metadata") == 0x7B:
            user = _object(body.values["metadata"]).get("user_id")
            if user is not None and bytes(user)[:1] == b'"' and (value := _text(user)):
                return value
        return body.text("prompt_cache_key")

    def first_user_text(self, body: Body) -> bytes | memoryview:
        """The first user message as it was sent (undecoded): what a conversation is known by. Empty when there is
        none."""
        del body
        return b""

    def asks_usage(self, body: Body) -> Edit | None:
        """The edit that asks a stream for its usage chunk, or None when the caller asked already or none is known."""
        del body
        return None


class Plain(Speech):
    """Carried as it is: legacy completions and embeddings are never injected."""

    def __init__(self, name: Dialect, path: str) -> None:
        self.name = name  # type: ignore[misc]
        self.path = path  # type: ignore[misc]
        super().__init__()


ROLE_FIRST = re.compile(
    rb'\[[ \t\n\r]*\{[ \t\n\r]*"role"[ \t\n\r]*:[ \t\n\r]*"([a-z]+)"'
    rb'(?:[ \t\n\r]*,[ \t\n\r]*"content"[ \t\n\r]*:[ \t\n\r]*("))?'
)
"""The usual beginning of a conversation: its first message begins with its role, and its content, a string, may
follow."""


def string_end(raw: bytes, start: int) -> int:
    """Index of the quote that ends the JSON string whose content begins at ``start`` (``raw`` is valid JSON)."""
    end = raw.index(b'"', start)
    while raw[end - 1] == 0x5C:
        before = end - 1
        while raw[before] == 0x5C:
            before -= 1
        if (end - before) % 2 == 1:
            break
        end = raw.index(b'"', end + 1)
    return end
