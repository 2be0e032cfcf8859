"""OpenAI's batch endpoint through the official SDK: upload a file of requests, create a batch, read the result
files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import openai

from optimizer.errors import EndpointDown, EndpointRefused
from optimizer.models.backend import Note
from optimizer.models.dialect import Dialect, completion, decode_reply, error_of
from optimizer.records import Completion, ModelSpec, Request

_ENDED = frozenset({"completed", "expired", "cancelled"})


class OpenAIBatches:
    """The lane to ``/v1/batches``. The SDK retries transient failures of the few calls made here."""

    def __init__(self, spec: ModelSpec, name: str, *, note: Note) -> None:
        self._spec = spec
        self._dialect = Dialect(spec, name, note)
        try:
            self._client = openai.AsyncOpenAI(
                api_key=spec.api_key, base_url=spec.api_base, timeout=spec.timeout, max_retries=spec.retries
            )
        except openai.OpenAIError as error:
            raise EndpointRefused(
                f"The model {spec.model!r} needs an API key: set api_key in the search file, or OPENAI_API_KEY."
            ) from error
        self._sent: dict[str, frozenset[str]] = {}

    async def submit(self, requests: Mapping[str, Request]) -> str:
        """One JSONL file, one batch."""
        bodies = {name: self._dialect.body(request) for name, request in requests.items()}
        lines = b"\n".join(
            msgspec.json.encode({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body})
            for name, body in bodies.items()
        )
        self._sent.update((name, frozenset(body)) for name, body in bodies.items())
        async with self._translated():
            file = await self._client.files.create(file=("requests.jsonl", lines), purpose="batch")
            batch = await self._client.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
        return batch.id

    async def poll(self, batch: str) -> dict[str, Completion | str] | None:
        """Results come in a file of replies and one of errors; a batch that expired has both."""
        async with self._translated():
            state = await self._client.batches.retrieve(batch)
            if state.status == "failed":
                problems = [problem.message for problem in (state.errors.data or [])] if state.errors else []
                told = "; ".join(problem for problem in problems[:3] if problem) or "no reason given"
                raise EndpointRefused(f"The batch {batch} of the model {self._spec.model!r} was refused: {told}.")
            if state.status not in _ENDED:
                return None
            results: dict[str, Completion | str] = {}
            for file in (state.output_file_id, state.error_file_id):
                if file:
                    content = await self._client.files.content(file)
                    for line in content.content.splitlines():
                        if line.strip():
                            name, outcome = self._read(msgspec.json.decode(line))
                            results[name] = outcome
            return results

    async def close(self) -> None:
        """Close the SDK's client."""
        await self._client.close()

    def _read(self, line: dict[str, Any]) -> tuple[str, Completion | str]:
        name = str(line.get("custom_id"))
        response = line.get("response") or {}
        body = msgspec.json.encode(response.get("body") or {"error": line.get("error") or {}})
        if response.get("status_code") == 200:
            reply = decode_reply(body)
            if reply.choices:
                return name, completion(reply.choices[0].message, reply.choices[0].finish_reason, reply.usage)
            return name, "the reply has no choice"
        code, message = error_of(body)
        if response.get("status_code") == 400 and (sent := self._sent.get(name)) is not None:
            if any(mark in code for mark in ("context_length", "content_filter")):
                return name, Completion(text="", finish="filter", detail=code.split()[0])
            if not self._dialect.drop(sent, f"{code} {message}"):
                raise EndpointRefused(f"The model {self._spec.model!r} answered 400 in a batch: {message}")
        return name, message or "it failed without a reason"

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        try:
            yield
        except (
            openai.APITimeoutError,
            openai.APIConnectionError,
            openai.RateLimitError,
            openai.InternalServerError,
        ) as error:
            raise EndpointDown(
                f"OpenAI's batch endpoint cannot be used now ({error}). Start again with --resume."
            ) from error
        except openai.APIStatusError as error:
            raise EndpointRefused(
                f"OpenAI's batch endpoint answered {error.status_code}: {error.message} Check key, model, rights."
            ) from error
