"""Jobs ``optimize`` and ``global``: from a domain's datasets to a version, or to the reason why not.

The story is ``run``: claim the run, decide once what to search on, search and tell what happens, and conclude. It may
be told twice: a worker that takes the run over finds the plan on it, the journal (or the replies that the registry
kept) for every call that was paid, and ids for the version, the approval and the canary that cannot be written a
second time.

Whatever happens, the run says why it ended as it did.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable
from typing import Any

import msgspec

import optimizer
from jobs import advance, convert, searchplan
from jobs.errors import LeaseLost, NoWork
from jobs.progress import Follower, Gone
from jobs.replies import shared_backends, within_daily_limits
from jobs.searchplan import RunPlan, Wishes
from jobs.work import Work
from registry import Conflict, Domain, Lineage, NotFound, RegistryUnavailable, Run, RunState

_ENDED = ("done", "failed", "cancelled")


async def run(work: Work) -> str:
    """One search. Raises NoWork (already written on the run) when there was nothing to do or no way to do it."""
    domain = await work.domain()
    claimed = await claim(work, domain)
    if claimed.state in _ENDED:
        return f"Run {claimed.id} had ended before: {claimed.reason}"
    try:
        wishes = searchplan.read_wishes(work.args)
        plan, claimed = await planned(work, domain, claimed, wishes)
        found, claimed = await search(work, domain, claimed, plan)
        return await conclude(work, domain, claimed, plan, found)
    except Gone as gone:
        await end(work, claimed, "cancelled", str(gone), missing_ok=True)
        raise NoWork(gone.cause, str(gone)) from gone
    except NoWork as reason:
        work.metrics.refused.labels(domain.name, reason.cause).inc()
        await end(work, claimed, "failed", str(reason))
        raise
    except optimizer.OptimizerError as error:
        cause = _cause(error)
        work.metrics.refused.labels(domain.name, cause).inc()
        told = str(error).replace("start again with --resume", f"`metaspo runs resume {claimed.id}`")
        await end(work, claimed, "failed", told)
        raise NoWork(cause, told) from error
    except (RegistryUnavailable, LeaseLost):
        raise
    except Exception as error:
        await end(work, claimed, "failed", f"An unexpected error ({type(error).__name__}); the worker's log has it.")
        raise


async def abandon(work: Work, reason: str) -> None:
    """This firing is given up: whoever waits for its run is told."""
    domain = await work.domain()
    claimed = await claim(work, domain)
    if claimed.state not in _ENDED:
        await end(work, claimed, "failed", reason)


CAUSES = {
    "BudgetSpent": "budget_spent",
    "EndpointRefused": "model_refused",
    "EndpointDown": "model_down",
    "JournalError": "journal",
    "RunBlocked": "blocked",
}
"""Metric labels of the optimizer's errors; anything else is ``search_failed``."""


def _cause(error: optimizer.OptimizerError) -> str:
    return CAUSES.get(type(error).__name__, "search_failed")


# --- 1. whose run is it ----------------------------------------------------------------------------------------------


async def claim(work: Work, domain: Domain) -> Run:
    """The run of this firing: the one that the API wrote, the one an earlier attempt wrote, or a new one.

    Raises NoWork when another run of the domain is live.
    """
    asked = work.args.get("run")
    if asked:
        try:
            return await work.registry.get_run(str(asked))
        except NotFound as error:
            raise NoWork("run_gone", f"The run {asked!r} does not exist (any more).") from error
    try:
        return await work.registry.create_run(
            domain.name,
            str(work.args.get("method", "metaspo")),
            asked_by=work.trigger.by,
            why=work.trigger.why or work.trigger.job,
            budget=domain.budget,
            request_id=hashlib.sha256(work.trigger.id.encode()).hexdigest()[:16],
        )
    except Conflict as error:
        work.metrics.refused.labels(domain.name, "already_running").inc()
        raise NoWork("already_running", f"{error} This firing is dropped.") from error


# --- 2. what will it search on ---------------------------------------------------------------------------------------


async def planned(work: Work, domain: Domain, claimed: Run, wishes: Wishes) -> tuple[RunPlan, Run]:
    """The plan on the run, or a new one that is written there before anything is spent."""
    stored = (claimed.result or {}).get("plan")
    if stored is not None:
        plan = msgspec.convert(stored, RunPlan)
        await tell(work, claimed, "resumed", f"Taken up again (lease {work.held.fence}).")
        return plan, claimed
    await within_daily_limits(work)
    plan = await _go_on_with(work, wishes.resume) if wishes.resume else await searchplan.decide(work, domain, wishes)
    claimed = await write(
        work,
        claimed,
        state="running",
        method=plan.method,
        started_at=work.clock(),
        incumbent=plan.incumbent,
        datasets=plan.hashes,
        result={"plan": convert.plain(plan)},
    )
    tasks = ", ".join(f"{t.name} ({t.role}, {'/'.join(map(str, t.rows))} rows)" for t in plan.tasks)
    await tell(
        work, claimed, "plan", f"Searching on {tasks}.", left_out=plan.left_out, samples_left_out=plan.samples_left_out
    )
    return plan, claimed


async def _go_on_with(work: Work, run_id: str) -> RunPlan:
    """The plan of an ended run, to go on with on its journal. Raises NoWork when it has none or is complete."""
    try:
        old = await work.registry.get_run(run_id)
    except NotFound as error:
        raise NoWork("run_gone", f"The run {run_id!r} does not exist (any more).") from error
    stored = (old.result or {}).get("plan")
    if stored is None:
        raise NoWork("nothing_to_resume", f"The run {run_id!r} ended before its search began: ask for a new one.")
    if old.state == "done":
        raise NoWork("nothing_to_resume", f"The run {run_id!r} is complete: ask for a new one.")
    plan = msgspec.convert(stored, RunPlan)
    return msgspec.structs.replace(plan, journal=plan.journal or old.id)


# --- 3. the search ---------------------------------------------------------------------------------------------------


async def search(work: Work, domain: Domain, claimed: Run, plan: RunPlan) -> tuple[optimizer.SearchResult, Run]:
    """Run the optimizer with its events streamed to the registry. Raises Gone when domain or run were taken away."""
    spec = await searchplan.spec(work, domain, claimed, plan)
    async with Follower(work, claimed) as follower, shared_backends(work, claimed, spec) as backends:
        searching = asyncio.ensure_future(
            optimizer.search(spec, clock=work.clock, on_event=follower.on_event, backends=backends)
        )
        found = await follower.until_done(searching)
    calls = {role: row.paid for role, row in found.ledger.roles.items()}
    return found, await write(work, claimed, calls=calls, usd=found.ledger.usd)


# --- 4. what becomes of it -------------------------------------------------------------------------------------------


async def conclude(work: Work, domain: Domain, claimed: Run, plan: RunPlan, found: optimizer.SearchResult) -> str:
    """Write the result; when the gate says PASS, write the version and let the policy decide what happens to it.

    A finalist that did not pass stays on the run with its measured table: a person may still add it by hand.
    """
    gate = convert.plain(found.gate) if found.gate is not None else None
    outcome = found.gate.outcome if found.gate is not None else "INCONCLUSIVE"
    reason = found.gate.reason if found.gate is not None else (found.notes[-1] if found.notes else found.reason)
    number = None
    if outcome == "PASS" and found.winner != plan.incumbent_prompt:
        version = await work.registry.add_version(
            domain.name,
            found.winner,
            lineage=Lineage(
                parent=plan.incumbent, run=claimed.id, datasets=plan.hashes, gate=gate, author="jobs", why=reason
            ),
            request_id=f"run-{claimed.id}",
        )
        number = version.number
    ended = await end(
        work,
        claimed,
        "done",
        f"{found.reason} Gate: {outcome}. {reason}" if found.gate is not None else f"{found.reason} {reason}",
        version=number,
        gate=gate,
        result={"plan": convert.plain(plan), **convert.result(found)},
    )
    work.metrics.runs.labels(domain.name, outcome).inc()
    if number is None:
        return f"Run {claimed.id}: {ended.reason}"
    step = await advance.after_gate(work, domain, ended, plan, number)
    return f"Run {claimed.id} made version {number}: {step}"


# --- the run's record ------------------------------------------------------------------------------------------------


async def write(work: Work, claimed: Run, **changes: Any) -> Run:
    """Change the run under this worker's fence. Raises Gone when the run was cancelled or its domain deleted."""
    changed: Run = msgspec.structs.replace(claimed, **changes)
    try:
        await work.registry.update_run(changed, fence=work.held.fence)
    except NotFound as error:
        raise Gone(
            "domain_deleted", f"The domain {claimed.domain!r} was deleted while the run was under way."
        ) from error
    except Conflict as error:
        if isinstance(error.current, Run):
            raise Gone("cancelled", error.current.reason or "The run was cancelled by an operator.") from error
        raise LeaseLost(str(error)) from error
    return changed


async def end(
    work: Work, claimed: Run, state: RunState, reason: str, *, missing_ok: bool = False, **changes: Any
) -> Run:
    """The run's last state, with its reason, told to whoever follows."""
    quiet: Callable[[], Any] = (lambda: contextlib.suppress(Gone, NotFound)) if missing_ok else contextlib.nullcontext
    ended = claimed
    with quiet():
        await tell(work, claimed, "end", reason, state=state, version=changes.get("version"))
        ended = await write(work, claimed, state=state, reason=reason, ended_at=work.clock(), **changes)
        if state == "done":
            await work.registry.drop_paid(claimed.id)
    return ended


async def tell(work: Work, claimed: Run, kind: str, message: str, **data: Any) -> None:
    event = {"kind": kind, "message": message, "at": work.clock(), "data": convert.plain(data)}
    await work.registry.append_run_event(claimed.id, event)
