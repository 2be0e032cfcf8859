"""Searches: ask for one, see what became of it, follow it while it runs."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header, Query
from starlette.responses import Response, StreamingResponse

from gateway.api.answers import RunAsked, answer, encode, full
from gateway.api.asks import Optimize
from gateway.api.control import Control_, DomainName, Id, Operator, Registry_, RequestId, Viewer, scoped
from gateway.api.openapi import gives
from registry import Budget, Registry, RegistryError, Run, Trigger

router = APIRouter(tags=["runs"])

POLL = 0.5
"""Seconds between two looks at a running search's events."""
COMMENT_EVERY = 15.0
"""Seconds of silence after which a comment keeps the connection open."""
ENDED = frozenset({"done", "failed", "cancelled"})
_WISHES = {"tasks", "unseen", "most", "options", "lenient", "resume"}
"""What goes to the job as it was asked."""


@router.post("/api/domains/{d}/optimize", status_code=202, responses=gives(RunAsked, 202, refusals=True))
async def optimize(
    d: DomainName, ask: Optimize, registry: Registry_, who: Operator, control: Control_, request_id: RequestId
) -> Response:
    """Ask for a re-optimization now. 409 with the run's id while one is queued or running."""
    domain = await registry.get_domain(d)
    budget = domain.budget
    if ask.budget is not None:
        budget = Budget(
            calls=budget.calls if ask.budget.calls is None else ask.budget.calls,
            usd=budget.usd if ask.budget.usd is None else ask.budget.usd,
        )
    deployment = await registry.deployment(d)
    run = await registry.create_run(
        d,
        ask.method,
        asked_by=who.name,
        why=ask.why,
        budget=budget,
        incumbent=deployment.stable,
        request_id=_token(scoped(request_id, "optimize")),
    )
    trigger = Trigger(
        id=f"optimize-{run.id}",
        job="optimize",
        domain=d,
        at=control.clock(),
        by=who.name,
        why=ask.why,
        args={
            **ask.model_dump(include=_WISHES, exclude_defaults=True),
            "run": run.id,
            "method": ask.method,
            "budget": msgspec.to_builtins(budget),
        },
    )
    await registry.put_trigger(trigger)
    return answer(RunAsked(run.id), 202)


def _token(request_id: str) -> str:
    """A run's id is made of it, so it must be a name, whatever the caller wrote."""
    return hashlib.blake2b(request_id.encode(), digest_size=8).hexdigest() if request_id else ""


@router.get("/api/runs", responses=gives(list[Run]))
async def list_runs(
    registry: Registry_,
    _who: Viewer,
    domain: Annotated[str, Query(max_length=63, description="of this domain only")] = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Response:
    """Searches, the newest first."""
    if domain:
        await registry.get_domain(domain)
    runs = await registry.list_runs(domain or None)
    return answer(sorted(runs, key=lambda run: -run.queued_at)[:limit])


@router.get("/api/runs/{id}", responses=gives(Run, missing=True))
async def get_run(id: Id, registry: Registry_, _who: Viewer) -> Response:
    """One search: its state, cost, gate result and outcome."""
    return answer(await registry.get_run(id))


_EVENTS = {"description": "Server-sent events", "content": {"text/event-stream": {"schema": {"type": "string"}}}}


@router.get(
    "/api/runs/{id}/events", responses={**gives(str, missing=True), 200: _EVENTS}, response_class=StreamingResponse
)
async def run_events(
    id: Id,
    registry: Registry_,
    control: Control_,
    _who: Viewer,
    last_event_id: Annotated[str, Header(max_length=64, pattern=r"^[0-9-]*$")] = "",
) -> StreamingResponse:
    """What happens in a search, as server-sent events, from the beginning or after ``last-event-id``.

    Each event's data is JSON; the stream ends with ``event: end`` and the run when the search has ended.
    """
    await registry.get_run(id)
    return StreamingResponse(
        _as_sse(follow(registry, id, last_event_id or "0", control.clock)),
        media_type="text/event-stream",
        headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
    )


async def follow(
    registry: Registry, run_id: str, after: str, clock: Callable[[], float]
) -> AsyncIterator[tuple[str, dict[str, Any]] | Run | None]:
    """A search as it goes: (id, event) for each event after ``after``, None now and then while nothing happens, and the
    run itself at the end."""
    spoke = clock()
    while True:
        run = await registry.get_run(run_id)  # before the events: none that it already knows of is missed
        events = await registry.run_events(run_id, after)
        for event_id, event in events:
            after = event_id
            yield event_id, event
        if run.state in ENDED and not events:
            yield run
            return
        if events:
            spoke = clock()
            continue
        if clock() - spoke >= COMMENT_EVERY:
            spoke = clock()
            yield None
        await asyncio.sleep(POLL)


async def _as_sse(items: AsyncIterator[tuple[str, dict[str, Any]] | Run | None]) -> AsyncIterator[bytes]:
    try:
        async for item in items:
            if item is None:
                yield b": waiting\n\n"
            elif isinstance(item, Run):
                yield b"event: end\ndata: " + encode(full(item)) + b"\n\n"
            else:
                yield b"id: " + item[0].encode() + b"\ndata: " + encode(item[1]) + b"\n\n"
    except RegistryError as error:  # the status has gone out: the client comes back with its last event's id
        yield b"event: error\ndata: " + encode({"message": str(error)}) + b"\n\n"
