"""Provider batch endpoints as an execution mode: half the price, an answer within a day.

Callers ask one request at a time as always. Requests that arrive close together are sent as one batch, and each caller
gets its own reply when the batch is done. The batch's name is noted in the journal before its results are awaited, so a
killed run that resumes waits for the same batch and pays nothing twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec

from optimizer.errors import EndpointDown, ModelError, SearchFileError
from optimizer.models.backend import Note
from optimizer.records import Completion, ModelSpec, Request
from optimizer.run.journal import Journal

_GATHER_SECONDS = 2.0
_POLL_SECONDS = 20.0
_MOST_PER_BATCH = 10_000
_GIVE_UP_SECONDS = 26 * 3600.0
_TRIES = 3

_encode = msgspec.json.Encoder(order="deterministic").encode


class BatchLane(Protocol):
    """One provider's batch endpoint. Errors of the provider are translated into ``ModelError`` by the lane."""

    async def submit(self, requests: Mapping[str, Request]) -> str:
        """Send requests under their names; the batch's name."""
        ...

    async def poll(self, batch: str) -> dict[str, Completion | str] | None:
        """None while the batch works; then per name the reply, or the reason why it has none and may be sent again."""
        ...

    async def close(self) -> None:
        """Give connections back."""
        ...


class Batched:
    """A model behind a batch endpoint."""

    def __init__(
        self,
        spec: ModelSpec,
        lane: BatchLane,
        journal: Journal,
        *,
        gather_seconds: float = _GATHER_SECONDS,
        poll_seconds: float = _POLL_SECONDS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._lane = lane
        self._journal = journal
        self._prefix = f"batch:{spec.identity}:"
        self._gather_seconds = gather_seconds
        self._poll_seconds = poll_seconds
        self._sleep = sleep
        self._waiting: dict[str, tuple[Request, asyncio.Future[Completion]]] = {}
        self._sender: asyncio.Task[None] | None = None
        self._followers: dict[str, asyncio.Task[dict[str, Completion | str]]] = {}
        self._deliveries: list[asyncio.Task[None]] = []
        self._known: dict[str, str] = {
            name: note_name.removeprefix(self._prefix)
            for note_name, names in journal.notes(self._prefix).items()
            for name in names
        }
        self.identity = spec.identity
        self.concurrency = _MOST_PER_BATCH
        self.retries = 0

    async def complete(self, request: Request) -> Completion:
        """The reply, hours later perhaps. A request that its batch could not answer goes into another, three times."""
        name = _name(request)
        why = ""
        for attempt in range(_TRIES):
            batch = self._known.pop(name, None)
            if batch is None:
                future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
                self._waiting[name] = (request, future)
                if self._sender is None or self._sender.done():
                    self._sender = asyncio.create_task(self._send_soon())
                try:
                    return await future
                except _UnansweredError as unanswered:
                    why = str(unanswered)
            else:
                outcome = (await self._results(batch)).get(name, "it is missing from its batch")
                if isinstance(outcome, Completion):
                    return outcome
                why = outcome
            self.retries += attempt + 1 < _TRIES
        raise EndpointDown(f"The batch endpoint could not answer a request {_TRIES} times: {why}. Resume later.")

    async def close(self) -> None:
        """Stop following; the provider goes on, and a resumed run picks the batches up."""
        sender = [self._sender] if self._sender is not None else []
        tasks: list[asyncio.Task[Any]] = [*sender, *self._deliveries, *self._followers.values()]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError, ModelError):
                await task
        await self._lane.close()
        await asyncio.sleep(0)  # the SDKs' sockets close on the loop's next turn

    async def _send_soon(self) -> None:
        """Wait until no new request has come for a moment, then send what there is."""
        while self._waiting:
            seen = -1
            while seen < len(self._waiting) < _MOST_PER_BATCH:
                seen = len(self._waiting)
                await self._sleep(self._gather_seconds)
            some = dict(list(self._waiting.items())[:_MOST_PER_BATCH])
            for name in some:
                del self._waiting[name]
            try:
                batch = await self._lane.submit({name: request for name, (request, _) in some.items()})
                self._journal.set_note(f"{self._prefix}{batch}", list(some))
            except Exception as error:
                for _, future in some.values():
                    if not future.done():
                        future.set_exception(error)
                continue
            futures = {name: future for name, (_, future) in some.items()}
            self._deliveries.append(asyncio.create_task(self._deliver(batch, futures)))

    async def _deliver(self, batch: str, futures: Mapping[str, asyncio.Future[Completion]]) -> None:
        try:
            results = await self._results(batch)
        except ModelError as error:
            for future in futures.values():
                if not future.done():
                    future.set_exception(error)
            return
        for name, future in futures.items():
            outcome = results.get(name, "it is missing from its batch")
            if future.done():
                continue
            if isinstance(outcome, Completion):
                future.set_result(outcome)
            else:
                future.set_exception(_UnansweredError(outcome))

    async def _results(self, batch: str) -> dict[str, Completion | str]:
        """The batch's results, polled for once however many wait for them."""
        if batch not in self._followers:
            self._followers[batch] = asyncio.create_task(self._poll(batch))
        return await asyncio.shield(self._followers[batch])

    async def _poll(self, batch: str) -> dict[str, Completion | str]:
        waited = 0.0
        while (results := await self._lane.poll(batch)) is None:
            if waited >= _GIVE_UP_SECONDS:
                raise EndpointDown(
                    f"The batch {batch} has not ended after 26 hours. Resume later, or use live execution."
                )
            await self._sleep(self._poll_seconds)
            waited += self._poll_seconds
        return results


class _UnansweredError(Exception):
    """A batch ended without an answer for one request."""


def _name(request: Request) -> str:
    """The request's name within a batch, a function of what is sent: a resumed run finds it again."""
    content = _encode((request.messages, request.temperature, request.max_tokens, request.schema, request.sample))
    return f"r-{hashlib.sha256(content).hexdigest()[:40]}"


def open_batch(spec: ModelSpec, *, journal: Journal, note: Note) -> Batched:
    """The batch backend of an ``openai/...`` or ``anthropic/...`` model. Raises ``SearchFileError`` for any other."""
    provider, _, name = spec.model.partition("/")
    lane: BatchLane
    if provider == "openai" or spec.model.startswith("gpt-"):
        from optimizer.models.batch_openai import OpenAIBatches

        lane = OpenAIBatches(spec, name or spec.model, note=note)
    elif provider == "anthropic" or spec.model.startswith("claude"):
        from optimizer.models.batch_anthropic import AnthropicBatches

        lane = AnthropicBatches(spec, name or spec.model, note=note)
    else:
        raise SearchFileError(f"The model {spec.model!r} has no batch endpoint known here. Use execution: live for it.")
    return Batched(spec, lane, journal)
