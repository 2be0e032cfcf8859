"""Anthropic's message batches through the official SDK."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anthropic

from optimizer.errors import EndpointDown, EndpointRefused
from optimizer.models.backend import Note
from optimizer.records import Completion, Finish, ModelSpec, Request

_FINISH: dict[str, Finish] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
}


class AnthropicBatches:
    """The lane to ``/v1/messages/batches``. The SDK retries transient failures of the few calls made here."""

    def __init__(self, spec: ModelSpec, name: str, *, note: Note) -> None:
        self._spec = spec
        self._name = name
        self._note = note
        self._dropped: set[str] = set()
        self._client = anthropic.AsyncAnthropic(
            api_key=spec.api_key, base_url=spec.api_base, timeout=spec.timeout, max_retries=spec.retries
        )

    async def submit(self, requests: Mapping[str, Request]) -> str:
        """All requests inline, one batch."""
        entries: list[Any] = [
            {"custom_id": name, "params": self._params(request)} for name, request in requests.items()
        ]
        async with self._translated():
            batch = await self._client.messages.batches.create(requests=entries)
        return batch.id

    async def poll(self, batch: str) -> dict[str, Completion | str] | None:
        """None until the batch has ended; expired and cancelled requests may be sent again."""
        async with self._translated():
            state = await self._client.messages.batches.retrieve(batch)
            if state.processing_status != "ended":
                return None
            results: dict[str, Completion | str] = {}
            async for entry in await self._client.messages.batches.results(batch):
                results[entry.custom_id] = self._read(entry.result)
            return results

    async def close(self) -> None:
        """Close the SDK's client."""
        await self._client.close()

    def _params(self, request: Request) -> dict[str, Any]:
        """The body of one message. Anthropic takes the system prompt beside the messages, and tells the form of
        structured output as ``output_config``."""
        system = "\n\n".join(content for role, content in request.messages if role == "system")
        params: dict[str, Any] = {
            "model": self._name,
            "max_tokens": request.max_tokens,
            "messages": [{"role": role, "content": content} for role, content in request.messages if role != "system"],
            **self._spec.extra,
        }
        if system:
            params["system"] = system
        if request.temperature is not None:
            params["temperature"] = request.temperature
        if request.schema is not None:
            params["output_config"] = {"format": {"type": "json_schema", "schema": request.schema}}
        return {name: value for name, value in params.items() if name not in self._dropped}

    def _read(self, result: Any) -> Completion | str:
        if result.type == "succeeded":
            message = result.message
            text = "".join(block.text for block in message.content if block.type == "text")
            usage = message.usage
            cached = usage.cache_read_input_tokens or 0
            return Completion(
                text=text,
                finish=_FINISH.get(message.stop_reason or "", "stop"),
                tokens_in=usage.input_tokens + cached + (usage.cache_creation_input_tokens or 0),
                tokens_out=usage.output_tokens,
                tokens_cached=cached,
            )
        if result.type == "errored":
            error = result.error.error
            if error.type == "invalid_request_error":
                return self._refused(error.message)
            return str(error.message)
        return f"it was {result.type}"

    def _refused(self, message: str) -> str | Completion:
        """A refused parameter is dropped (the request is sent again); a prompt too long is data; the rest ends the
        run."""
        for name in ("temperature", "output_config", *self._spec.extra):
            if name not in self._dropped and re.search(rf"(?<![a-z_]){re.escape(name)}(?![a-z_])", message):
                self._dropped.add(name)
                self._note(f"{self._spec.model} refuses the parameter {name}: it is no longer sent.")
                return message
            if name in self._dropped and name in message:
                return message
        if "too long" in message or "context" in message:
            return Completion(text="", finish="filter", detail="context_length_exceeded")
        raise EndpointRefused(f"The model {self._spec.model!r} refused a request of a batch: {message}")

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        try:
            yield
        except (
            anthropic.APITimeoutError,
            anthropic.APIConnectionError,
            anthropic.RateLimitError,
            anthropic.InternalServerError,
        ) as error:
            raise EndpointDown(
                f"Anthropic's batch endpoint cannot be used now ({error}). Start again with --resume."
            ) from error
        except anthropic.APIStatusError as error:
            raise EndpointRefused(
                f"Anthropic's batch endpoint answered {error.status_code}: {error.message} Check key, model, rights."
            ) from error
        except anthropic.AnthropicError as error:
            raise EndpointRefused(
                f"The model {self._spec.model!r} needs an API key: set api_key, or the variable ANTHROPIC_API_KEY."
            ) from error
