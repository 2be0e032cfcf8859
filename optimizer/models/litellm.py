"""Every provider that speaks a dialect of its own, through LiteLLM. Importing LiteLLM takes seconds, so it waits for
a call."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable
from typing import Any

from optimizer.errors import EndpointDown, EndpointRefused
from optimizer.models.backend import Note
from optimizer.models.pace import Pace
from optimizer.records import Completion, Finish, ModelSpec, Request

_FIRST_WAIT = 0.5
_LONGEST_WAIT = 30.0
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
        import litellm

        litellm.suppress_debug_info = True
        litellm.telemetry = False
        attempt = 0
        while True:
            try:
                async with self._pace.slot(lambda: len(str(request.messages)) / 4 + request.max_tokens):
                    return _completion(await litellm.acompletion(**self._arguments(request)))
            except litellm.exceptions.ContentPolicyViolationError as error:
                return Completion(text="", finish="filter", detail=_told(error))
            except litellm.exceptions.ContextWindowExceededError:
                return Completion(text="", finish="filter", detail="context_length_exceeded")
            except (litellm.exceptions.BadRequestError, litellm.exceptions.UnsupportedParamsError) as error:
                if not self._drop(request, str(error)):
                    raise EndpointRefused(
                        f"{self._label()} {_told(error)} Check its settings in the search file."
                    ) from error
            except litellm.exceptions.AuthenticationError as error:
                raise EndpointRefused(f"{self._label()} refused the key. Check the API key.") from error
            except litellm.exceptions.PermissionDeniedError as error:
                raise EndpointRefused(
                    f"{self._label()} {_told(error)} Check that the key may use this model."
                ) from error
            except litellm.exceptions.NotFoundError as error:
                raise EndpointRefused(f"{self._label()} {_told(error)} Check the model's name.") from error
            except (
                litellm.exceptions.RateLimitError,
                litellm.exceptions.APIConnectionError,
                litellm.exceptions.Timeout,
                litellm.exceptions.InternalServerError,
                litellm.exceptions.ServiceUnavailableError,
                litellm.exceptions.APIError,
            ) as error:
                if attempt >= self._spec.retries:
                    raise EndpointDown(
                        f"{self._label()} {_told(error)} ({attempt + 1} attempts) Nothing paid for is lost: "
                        "start again with --resume when it answers."
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

    def _drop(self, request: Request, complaint: str) -> bool:
        """Stop sending the optional parameter that the provider names in its complaint."""
        sent = self._arguments(request)
        for name in (*_OPTIONAL, *self._spec.extra):
            if name in sent and re.search(rf"(?<![a-z_]){re.escape(name)}(?![a-z_])", complaint):
                self._dropped.add(name)
                self._note(f"{self._spec.model} refuses the parameter {name}: it is no longer sent.")
                return True
        return False

    def _label(self) -> str:
        return f"The model {self._spec.model!r}"


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


def _told(error: Exception) -> str:
    """The provider's complaint in one line that ends with a full stop."""
    text = " ".join(str(getattr(error, "message", error)).split())[:300]
    return text if text.endswith((".", "!", "?")) else f"{text}."
