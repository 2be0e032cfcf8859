"""Asking for a search from the command line, and watching it."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable
from typing import Any

from jobs.errors import JobsError
from optimizer import Follower
from registry import Budget, Registry, Run, RunState, Trigger

ENDED: frozenset[RunState] = frozenset({"done", "failed", "cancelled"})
WAIT = 1.0
UNNOTICED_AFTER = 10.0


async def ask(
    registry: Registry, domain: str, args: dict[str, Any], *, by: str, why: str, clock: Callable[[], float] = time.time
) -> Run:
    """Write the run and its trigger. Raises NotFound, Conflict (one is live)."""
    found = await registry.get_domain(domain)
    wanted = args.get("budget") or {}
    calls, usd = wanted.get("calls", found.budget.calls), wanted.get("usd", found.budget.usd)
    run = await registry.create_run(
        domain,
        args.get("method", "metaspo"),
        asked_by=by,
        why=why,
        budget=Budget(calls=calls, usd=usd),
        request_id=hashlib.sha256(uuid.uuid4().bytes).hexdigest()[:16],
    )
    trigger = Trigger(
        id=f"optimize-{run.id}", job="optimize", domain=domain, at=clock(), by=by, why=why, args={**args, "run": run.id}
    )
    await registry.put_trigger(trigger)
    return run


async def resumable(registry: Registry, run_id: str) -> Run:
    """The ended run that can be gone on with. Raises NotFound, JobsError."""
    run = await registry.get_run(run_id)
    if run.state in {"queued", "running"}:
        raise JobsError(f"The run {run_id} is {run.state}: there is nothing to resume.")
    if run.state == "done":
        raise JobsError(f"The run {run_id} is complete: ask for a new one with `metaspo optimize {run.domain}`.")
    return run


async def follow(registry: Registry, run: Run, *, quiet: bool = False, clock: Callable[[], float] = time.time) -> Run:
    """Show what happens until the run has ended: a progress line on a terminal, plain lines elsewhere."""
    most = run.budget.calls if run.budget else None
    with Follower(most or None, doing=run.domain[:20], bar=not quiet) as follower:
        return await _follow(registry, run, follower, quiet=quiet, clock=clock)


async def _follow(registry: Registry, run: Run, follower: Follower, *, quiet: bool, clock: Callable[[], float]) -> Run:
    after, began, warned = "0", clock(), False
    while True:
        now = await registry.get_run(run.id)
        events = await registry.run_events(run.id, after, wait=0.0 if now.state in ENDED else WAIT)
        for event_id, event in events:
            after = event_id
            if not quiet:
                show(event, follower)
        if now.state in ENDED and not events:
            return now
        if not warned and not events and now.state == "queued" and clock() - began > UNNOTICED_AFTER:
            warned = True
            if not quiet and await registry.lease_holder("scheduler") is None:
                follower.say("No scheduler is running: start `metaspo jobs scheduler` and `metaspo jobs worker`.")


def show(event: dict[str, Any], follower: Follower) -> None:
    """One event for people: progress on the bar of a terminal, the others as lines; the end is left to the command,
    whose last line on standard output is the run's state and reason."""
    kind, data = event.get("kind"), event.get("data") or {}
    if kind == "progress":
        follower.progress(data.get("calls", 0), data.get("usd", 0.0), total=data.get("budget") or None)
    elif kind != "end":
        follower.say(f"{kind or ''}: {event.get('message', '')}")
