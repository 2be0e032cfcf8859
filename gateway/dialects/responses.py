"""OpenAI responses."""

from __future__ import annotations

from typing import ClassVar

from gateway.body import Body, Edit
from gateway.dialects import turns
from gateway.dialects.base import Speech
from gateway.errors import BadRequest
from gateway.exchange import Dialect
from gateway.prompt import Prompt


class Responses(Speech):
    """``instructions`` is the system prompt, unless the caller put theirs in front of ``input`` instead.

    Instructions are not carried over with ``previous_response_id``, so every request gets them.
    """

    name: ClassVar[Dialect] = "responses"
    path: ClassVar[str] = "/responses"
    injects: ClassVar[bool] = True

    def read(self, body: Body) -> None:
        super().read(body)
        if body.peek("input") not in (0, 0x22, 0x5B, 0x6E):
            raise BadRequest(
                "Invalid type for 'input': expected a string or an array.", param="input", code="invalid_type"
            )
        if body.peek("instructions") not in (0, 0x22, 0x6E):
            raise BadRequest(
                "Invalid type for 'instructions': expected a string.", param="instructions", code="invalid_type"
            )

    def inject(self, body: Body, prompt: Prompt, *, only_fill: bool) -> list[Edit] | None:
        if body.peek("instructions") == 0x22:
            if only_fill:
                return None
            start, end = body.span("instructions")
            return [(start, end, b'"%b"' % prompt.around_text(body.raw[start + 1 : end - 1]))]
        if run := self._leading(body):
            return None if only_fill else turns.merge_into_run(body, "input", run, prompt, b"input_text")
        if not prompt.alone:
            return []
        if "instructions" in body:
            return [(*body.span("instructions"), b'"%b"' % prompt.alone)]
        return [body.insert_first("instructions", b'"%b"' % prompt.alone)]

    def system_text(self, body: Body) -> str:
        if body.peek("instructions") == 0x22:
            return body.text("instructions")
        return "\n\n".join(turns.plain_text(turns.content_of(turn)) for turn in self._leading(body))

    def first_user_text(self, body: Body) -> bytes | memoryview:
        kind = body.peek("input")
        if kind == 0x22:
            start, end = body.span("input")
            return body.raw[start + 1 : end - 1]
        return turns.first_user_text(body, "input") if kind == 0x5B else b""

    @staticmethod
    def _leading(body: Body) -> list:  # type: ignore[type-arg]
        if body.peek("input") != 0x5B or turns.leads_with_other(body, "input"):
            return []
        return turns.leading_run(body.array("input"))
