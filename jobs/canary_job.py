"""Job ``canary``: one look at a domain whose pointers are on trial, and the move that follows from it.

``canary.decide`` decides, from numbers alone; here those numbers are read and the decision is carried out. Nothing is
kept between two looks: every look begins with the experiment's first exchange, so a look that was lost or made twice
changes nothing. To make that so, what a unit shows in the hard signals counts only for its first ``settle`` seconds,
which is what a look every few seconds would have seen of it.

Every move names the experiment in its request id and so is made once.
"""

from __future__ import annotations

from typing import Any

import msgspec

from jobs import advance, policy
from jobs.canary import Decision, Phase, Rules, decide
from jobs.errors import NoWork
from jobs.policy import AUTOMATIC, Verdict
from jobs.searchplan import RunPlan
from jobs.trial import began, last_move, outcomes_since, samples_since, standing, units
from jobs.work import Work
from registry import Approval, Arm, Conflict, Deployment, Domain, NotFound, Refused, Run

LOOK = "canary-look"
"""The kind of the audit entries that hold the table of a look."""


async def run(work: Work) -> str:
    """One look. Raises NoWork when nothing is on trial (any more)."""
    domain = await work.domain()
    pointers = await work.registry.deployment(domain.name)
    if pointers.canary is None and pointers.holdback is None:
        raise NoWork("nothing_on_trial", f"Neither a canary nor a holdback of {domain.name!r} is running.")
    said = []
    if pointers.holdback is not None:
        try:
            said.append(await _holdback(work, domain, pointers))
        except NoWork as reason:
            if pointers.canary is None:
                raise
            said.append(str(reason))
        pointers = await work.registry.deployment(domain.name)
    if pointers.canary is not None:  # else harm of the stable version has just ended it too
        said.append(await _ramp(work, domain, pointers))
    return " ".join(said)


async def _ramp(work: Work, domain: Domain, pointers: Deployment) -> str:
    started, stage_started = await began(work, domain.name, pointers)
    if await _rejected(work, domain.name, pointers):
        return "A person rejected it; the canary has ended."
    samples = await samples_since(work, domain.name, started)
    outcomes = await outcomes_since(work, domain.name, started, _ARMS)
    control, candidate = (
        units([o for o in outcomes if o.arm == arm and o.experiment == pointers.experiment], samples) for arm in _ARMS
    )
    experiment = standing(domain, started, stage_started, outcomes, samples, pointers)
    rules = Rules() if not await _drift_accepted(work, domain.name, pointers) else Rules(drift=float("inf"))
    decision = decide(domain.canary, pointers, experiment, control, candidate, now=work.clock(), rules=rules)
    await _carry_out(work, domain, pointers, decision)
    return decision.reason


async def _rejected(work: Work, domain: str, pointers: Deployment) -> bool:
    """End the canary when a person has answered a question of its own (finish? go on growing?) with no."""
    for approval in await work.registry.list_approvals(domain):
        if approval.decision == "rejected" and approval.id in advance.questions_of(domain, pointers):
            why = f"rejected: {approval.why or approval.reason}"
            await work.registry.abort(
                domain, actor=approval.by, why=why, if_epoch=pointers.epoch, request_id=f"rejected-{approval.id}"
            )
            return True
    return False


async def _holdback(work: Work, domain: Domain, pointers: Deployment) -> str:
    """After an automatic promotion: the promoted version against the old prompt's holdback.

    A canary may have begun meanwhile; whoever is in its control is served the promoted version too, and its harm ends
    the canary as well.
    """
    started = await last_move(work, domain.name, {"holdback"})
    samples = await samples_since(work, domain.name, started)
    outcomes = await outcomes_since(work, domain.name, started, ("holdback", "stable", "control"))
    control = units([o for o in outcomes if o.arm == "holdback" and o.version == pointers.holdback], samples)
    candidate = units([o for o in outcomes if o.arm != "holdback" and o.version == pointers.stable], samples)
    experiment = standing(domain, started, started, outcomes, samples, pointers, phase="holdback")
    rules = Rules(deadline=work.settings.jobs.holdback_days * 86_400)
    decision = decide(domain.canary, pointers, experiment, control, candidate, now=work.clock(), rules=rules)
    await _carry_out(work, domain, pointers, decision, "holdback")
    return decision.reason


_ARMS: tuple[Arm, Arm] = ("control", "canary")


async def _drift_accepted(work: Work, domain: str, pointers: Deployment) -> bool:
    """Whether a person has said that this canary's cost or latency may be what it is."""
    approvals: list[Approval] = await work.registry.list_approvals()
    return any(
        a.domain == domain and a.version == pointers.canary and a.kind == "share" and a.decision == "approved"
        for a in approvals
    )


# --- what follows ----------------------------------------------------------------------------------------------------


async def _carry_out(
    work: Work, domain: Domain, pointers: Deployment, decision: Decision, phase: Phase = "ramp"
) -> None:
    """Make the move that was decided. Somebody who moved first is right: then there is nothing left to do."""
    if decision.action == "hold":
        await _note(work, domain.name, pointers, decision, phase)
        return
    try:
        await _move(work, domain, pointers, decision, phase)
    except Conflict as error:
        raise NoWork("moved_meanwhile", str(error)) from error
    except Refused as error:
        raise NoWork("refused", str(error)) from error


async def _note(work: Work, domain: str, pointers: Deployment, decision: Decision, phase: Phase) -> None:
    """Once an hour, and after each move, the table of a look that moved nothing: what the console shows meanwhile."""
    if decision.table:
        await work.registry.append_audit(
            domain,
            LOOK,
            actor=AUTOMATIC,
            why=decision.reason,
            detail={**decision.to_dict(), "phase": phase},
            request_id=f"look-{phase}-{pointers.epoch}-{int(work.clock() // 3600)}",
        )


async def _move(work: Work, domain: Domain, pointers: Deployment, decision: Decision, phase: Phase) -> None:
    name = domain.name
    ramp = phase == "ramp"
    trial = pointers.experiment if ramp else f"holdback-{pointers.stable}-{pointers.holdback}"
    told: dict[str, Any] = {
        "actor": AUTOMATIC,
        "why": decision.reason,
        "if_epoch": pointers.epoch,
        "request_id": f"{trial}-{decision.action}-{decision.share or ''}",
    }
    registry = work.registry
    if decision.action == "next_stage" and decision.share is not None:
        await registry.set_share(name, decision.share, **told)
        work.metrics.promotions.labels(name, "share").inc()
    elif decision.action == "rollback" and ramp and pointers.canary is not None:
        await registry.abort(name, **told)
        await _block(work, name, pointers.canary, decision)
    elif decision.action == "rollback" and pointers.stable is not None:
        await registry.rollback(name, **told)
        await _block(work, name, pointers.stable, decision)
    elif decision.action == "inconclusive" and ramp:
        await registry.abort(name, **told)
        work.metrics.rollbacks.labels(name, decision.cause).inc()
    elif decision.action in {"inconclusive", "end_holdback"}:
        await registry.set_holdback(name, None, **told)
    elif decision.action == "pause" and ramp and pointers.canary is not None:
        await advance.ask(work, name, pointers.canary, "share", Verdict("ask", (decision.reason,)), None, trial)
    elif decision.action == "promote" and pointers.canary is not None:
        await _promote(work, domain, pointers, told)
    await registry.append_audit(
        name,
        LOOK,
        actor=AUTOMATIC,
        why=decision.reason,
        detail={**decision.to_dict(), "phase": phase},
        request_id=f"look-{told['request_id']}",
    )


async def _block(work: Work, domain: str, number: int, decision: Decision) -> None:
    """A version that did harm is never served again; a person may add its text anew, as a new version."""
    work.metrics.rollbacks.labels(domain, decision.cause).inc()
    try:
        await work.registry.block_version(domain, number, decision.reason, AUTOMATIC)
    except (NotFound, Refused) as error:
        raise NoWork("not_blocked", str(error)) from error


async def _promote(work: Work, domain: Domain, pointers: Deployment, told: dict[str, Any]) -> None:
    """The canary passed its last test: promote where the policy lets automation, else ask."""
    assert pointers.canary is not None
    version = await work.registry.get_version(domain.name, pointers.canary)
    plan = await _plan_of(work, version.lineage.run)
    case = await advance.make_case(work, domain, plan, version.number, "PASS")
    case = msgspec.structs.replace(case, canary_by_person=await _started_by_person(work, domain.name, pointers))
    verdict = policy.may_finish(case)
    if verdict.step == "ask":
        await advance.ask(
            work, domain.name, version.number, "promote", verdict, version.lineage.run, pointers.experiment
        )
        return
    old = pointers.stable
    moved = await work.registry.promote(domain.name, version.number, **told)
    work.metrics.promotions.labels(domain.name, "promote").inc()
    share = work.settings.jobs.holdback_share
    if old is not None and share > 0:
        await work.registry.set_holdback(
            domain.name, old, share, actor=AUTOMATIC, why="watch what the automatic promotion is worth",
            if_epoch=moved.epoch, request_id=f"{pointers.experiment}-holdback",
        )  # fmt: skip


async def _started_by_person(work: Work, domain: str, pointers: Deployment) -> bool:
    for entry in await work.registry.history(domain, limit=500, moves_only=True):
        if entry.kind == "canary" and entry.after is not None and entry.after.experiment == pointers.experiment:
            return entry.actor != AUTOMATIC
    return False


async def _plan_of(work: Work, run_id: str | None) -> RunPlan | None:
    """The plan of the run that made a version, when there was one and it is still kept."""
    if run_id is None:
        return None
    try:
        made: Run = await work.registry.get_run(run_id)
    except NotFound:
        return None
    stored = (made.result or {}).get("plan")
    return msgspec.convert(stored, RunPlan) if stored else None
