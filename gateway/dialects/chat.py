"""OpenAI chat completions."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from gateway.body import Body, Edit, mentions
from gateway.dialects import turns
from gateway.dialects.base import Speech
from gateway.errors import BadRequest
from gateway.exchange import Dialect
from gateway.prompt import Prompt

_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Chat(Speech):
    """``messages``: the system prompt is the leading system (or developer) message."""

    name: ClassVar[Dialect] = "chat"
    path: ClassVar[str] = "/chat/completions"
    injects: ClassVar[bool] = True

    def read(self, body: Body) -> None:
        Speech.read(self, body)
        kind = body.peek("messages")
        if not kind:
            raise BadRequest(
                "Missing required parameter: 'messages'.", param="messages", code="missing_required_parameter"
            )
        if kind != 0x5B:
            raise BadRequest("Invalid type for 'messages': expected an array.", param="messages", code="invalid_type")

    def inject(self, body: Body, prompt: Prompt, *, only_fill: bool) -> list[Edit] | None:
        if not turns.leads_with_other(body, "messages"):
            messages = body.array("messages")
            if not messages:
                return None  # the provider refuses an empty conversation: it must stay empty
            if run := turns.leading_run(messages):
                return None if only_fill else turns.merge_into_run(body, "messages", run, prompt, b"text")
        if not prompt.alone:
            return []
        # a conversation that uses the developer role must not also get a system one
        role = b"developer" if mentions(body.raw, b'"developer"') else b"system"
        place = body.at["messages"] + 1
        return [(place, place, prompt.turns[role])]

    def system_text(self, body: Body) -> str:
        if turns.leads_with_other(body, "messages"):
            return ""
        return "\n\n".join(
            turns.plain_text(turns.content_of(turn)) for turn in turns.leading_run(body.array("messages"))
        )

    def first_user_text(self, body: Body) -> bytes | memoryview:
        return turns.first_user_text(body, "messages")

    def asks_usage(self, body: Body) -> Edit | None:
        if body.peek("stream_options") not in (0, 0x7B, 0x6E):
            return None
        if body.peek("stream_options") != 0x7B:
            wish = b'{"include_usage":true}'
            if "stream_options" in body:
                return (*body.span("stream_options"), wish)
            place = body.raw.rindex(b"}")
            return place, place, b',"stream_options":' + wish
        options = _object(body.values["stream_options"])
        if "include_usage" in options:
            return None
        place = body.at["stream_options"] + 1
        return place, place, b'"include_usage":true' + (b"," if options else b"")
