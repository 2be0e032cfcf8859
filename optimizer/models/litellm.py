"""Every provider that speaks a dialect of its own, through LiteLLM. Importing LiteLLM takes seconds, so it waits for
a call."""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any

from optimizer.errors import EndpointDown, EndpointRefused
from optimizer.models.backend import Note
from optimizer.models.pace import Pace
from optimizer.records import Completion, Finish, ModelSpec, Request

_FIRST_WAIT = 0.5
_LONGEST_WAIT = 30.0
_ADVICE = {
    400: "Check the model's settings in the search file",
    401: "Check the API key",
    403: "Check that the key may use this model",
    404: "Check the model's name",
    422: "Check the model's settings in the search file",
}
_OPTIONAL = ("temperature", "seed", "response_format", "max_tokens")


class LiteLLM:
    """One model by its LiteLLM name. Keys come from the spec or from the provider's usual environment variable."""

    def __init__(
        self,
        spec: ModelSpec,
        *,
        note: Note,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._spec = spec
        self._note = note
        self._rng = rng or random.Random()  # noqa: S311 -- jitter, not a secret
        self._sleep = sleep
        self._pace = Pace(spec.concurrency, sleep=sleep)
        self._dropped: set[str] = set()
        self.identity = spec.identity
        self.concurrency = spec.concurrency
        self.retries = 0

    async def complete(self, request: Request) -> Completion:
        """The reply. LiteLLM's own retries are off: ours are the only ones, so that attempts are counted."""
        import openai

        litellm = _litellm()
        attempt = 0
        while True:
            arguments = self._arguments(request)
            try:
                async with self._pace.slot(lambda: len(str(request.messages)) / 4 + request.max_tokens):
                    return _completion(await litellm.acompletion(**arguments))
            except openai.OpenAIError as error:  # all of LiteLLM's errors derive from the SDK's
                if isinstance(error, litellm.exceptions.ContentPolicyViolationError):
                    return Completion(text="", finish="filter", detail="content_filter")
                if isinstance(error, litellm.exceptions.ContextWindowExceededError):
                    return Completion(text="", finish="filter", detail="context_length_exceeded")
                status = _status(error)
                if status in (400, 422) and self._drop(arguments, str(error)):
                    continue
                if status in _ADVICE:
                    raise EndpointRefused(
                        f"{self._label()} answered {status}: {_told(error)} {_ADVICE[status]}."
                    ) from error
                if attempt >= self._spec.retries:
                    raise EndpointDown(
                        f"{self._label()} cannot be used now: {_told(error)} ({attempt + 1} attempts) Nothing paid "
                        "for is lost: start again with --resume when it answers."
                    ) from error
                await self._wait(attempt, error)
                attempt += 1

    async def close(self) -> None:
        """LiteLLM keeps clients of its own; there is nothing of ours to close."""

    def _arguments(self, request: Request) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "model": self._spec.model,
            "messages": [{"role": role, "content": content} for role, content in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "timeout": self._spec.timeout,
            "num_retries": 0,
            "max_retries": 0,
            **self._spec.extra,
        }
        if self._spec.api_key:
            arguments["api_key"] = self._spec.api_key
        if self._spec.api_base:
            arguments["api_base"] = self._spec.api_base
        if request.schema is not None:
            arguments["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "reply", "strict": True, "schema": request.schema},
            }
        return {name: value for name, value in arguments.items() if name not in self._dropped and value is not None}

    async def _wait(self, attempt: int, error: Exception) -> None:
        self.retries += 1
        response = getattr(error, "response", None)
        asked = self._pace.retry_after(response.headers) if response is not None else None
        if asked is not None:
            self._pace.pause(asked)
        wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt) * self._rng.uniform(0.5, 1.0)
        await self._sleep(wait if asked is None else asked + self._rng.uniform(0.0, 0.25))

    def _drop(self, sent: dict[str, Any], complaint: str) -> bool:
        """Stop sending the optional parameter of ``sent`` that the provider names in its complaint."""
        for name in (*_OPTIONAL, *self._spec.extra):
            if name in sent and re.search(rf"(?<![a-z_]){re.escape(name)}(?![a-z_])", complaint):
                if name not in self._dropped:  # else it was dropped while this request was in the air
                    self._dropped.add(name)
                    self._note(f"{self._spec.model} refuses the parameter {name}: it is no longer sent.")
                return True
        return False

    def _label(self) -> str:
        return f"The model {self._spec.model!r}"


@lru_cache(maxsize=1)
def _litellm() -> Any:
    """The library, imported quietly and without the price list that it would fetch from the network."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    litellm.suppress_debug_info = True
    litellm.telemetry = False
    return litellm


def _completion(reply: Any) -> Completion:
    """LiteLLM's reply as our record."""
    choice = reply.choices[0]
    message, reason = choice.message, choice.finish_reason
    refusal = getattr(message, "refusal", None)
    finish: Finish = "stop"
    if refusal or reason == "refusal":
        finish = "refusal"
    elif reason in ("length", "max_tokens"):
        finish = "length"
    elif reason == "content_filter":
        finish = "filter"
    usage = getattr(reply, "usage", None)
    details = getattr(usage, "prompt_tokens_details", None)
    return Completion(
        text=message.content or refusal or "",
        finish=finish,
        tokens_in=getattr(usage, "prompt_tokens", 0) or 0,
        tokens_out=getattr(usage, "completion_tokens", 0) or 0,
        tokens_cached=getattr(details, "cached_tokens", 0) or 0,
        detail="content_filter" if finish == "filter" else "",
    )


def _status(error: BaseException) -> int | None:
    """The status that the provider really answered: LiteLLM guesses a class from the text, the first cause knows."""
    status: int | None = None
    seen: BaseException | None = error
    while seen is not None:
        found = getattr(seen, "status_code", None)
        status = found if isinstance(found, int) else status
        seen = seen.__cause__ or seen.__context__
    return status


def _told(error: Exception) -> str:
    """The provider's complaint in one line that ends with a full stop."""
    text = " ".join(str(getattr(error, "message", error)).split())[:300]
    return text if text.endswith((".", "!", "?")) else f"{text}."
