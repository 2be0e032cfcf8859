"""From a version that passed the gate to what the policy allows: nothing, a question to a person, or the first canary
stage.

Also job ``approval``: carries out what a person approved. Every move has a request id made from the run or the
approval, so that it is made once however often this runs.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

from jobs import policy, thin
from jobs.calibrate import latest
from jobs.errors import BadModel, NoWork
from jobs.policy import AUTOMATIC, CacheCost, Case, Verdict
from jobs.searchplan import RunPlan
from jobs.settings import find_endpoint
from jobs.work import Work
from registry import Approval, Conflict, Deployment, Domain, GateOutcome, MoveKind, NotFound, Outcome, Refused, Run

CACHE_LIFE = 600.0
"""Seconds for which a provider keeps a conversation's prefix: who spoke within it pays when the prefix changes."""
SETTINGS_ACTOR = "config file"
"""Who makes a domain's version 1 stable: not a promotion that anybody decided."""


async def run(work: Work) -> str:
    """Job ``approval``. Raises NoWork when the approval is gone, undecided or rejected, or the move is refused."""
    wanted = work.args.get("approval")
    approval = next((a for a in await work.registry.list_approvals() if a.id == wanted), None)
    if approval is None or approval.decision != "approved":
        raise NoWork("not_approved", f"The approval {wanted!r} is not there or not given.")
    try:
        return await carry_out(work, approval)
    except (Refused, Conflict, NotFound) as error:
        why = f"Approved by {approval.by}, but not possible any more: {error}"
        detail = {"approval": approval.id, "version": approval.version, "kind": approval.kind}
        await work.registry.append_audit(approval.domain, "approval", actor=AUTOMATIC, why=why, detail=detail)
        raise NoWork("refused", str(error)) from error


async def carry_out(work: Work, approval: Approval) -> str:
    """Make the approved move as the person who approved it. Raises Refused, Conflict, NotFound."""
    domain = await work.domain()
    why = f"approved: {approval.why}" if approval.why else f"approved: {approval.reason}"
    told: dict[str, Any] = {"actor": approval.by or AUTOMATIC, "why": why, "request_id": f"approval-{approval.id}"}
    if approval.kind == "canary":
        share = domain.canary.stages[0]
        await work.registry.canary(approval.domain, approval.version, share, **told)
    elif approval.kind == "promote":
        await work.registry.promote(approval.domain, approval.version, **told)
    else:
        raise Refused(f"An approval of kind {approval.kind!r} cannot be carried out.")
    work.metrics.promotions.labels(approval.domain, approval.kind).inc()
    return f"{approval.kind} of version {approval.version}, approved by {approval.by}"


async def after_gate(work: Work, domain: Domain, ended: Run, plan: RunPlan, number: int) -> str:
    """What happens to a new version; returns it in words."""
    case = await make_case(work, domain, plan, number, _outcome(ended))
    verdict = policy.decide(case)
    if verdict.step == "nothing":
        return verdict.reason
    thinness = await thin.why(work, domain) if work.settings.jobs.shadow_first else ""
    if thinness:
        await thin.want_replay(work, domain.name, number, ended.id, then=verdict.step, reason=thinness)
    if verdict.step == "ask":
        told = Verdict("ask", (*verdict.reasons, *([thinness] if thinness else [])))
        return await ask(work, domain.name, number, "canary", told, ended.id)
    if thinness:
        return f"waits for a replay of fresh samples: {thinness}"
    return await start_canary(work, domain, number, ended.id, f"Passed the gate of run {ended.id}; {verdict.reason}")


async def start_canary(work: Work, domain: Domain, number: int, run_id: str, why: str) -> str:
    """The first stage, by automation; a person is asked when the pointers do not allow it. Returns it in words."""
    share = domain.canary.stages[0]
    try:
        await work.registry.canary(
            domain.name, number, share, actor=AUTOMATIC, why=why, request_id=f"run-{run_id}-canary"
        )
    except (Refused, Conflict) as error:
        return await ask(work, domain.name, number, "canary", Verdict("ask", (str(error),)), run_id)
    work.metrics.promotions.labels(domain.name, "canary").inc()
    return f"on canary at {share:.0%}"


async def ask(
    work: Work, domain: str, number: int, kind: MoveKind, verdict: Verdict, run_id: str | None, trial: str = ""
) -> str:
    """Write the question for a person, once per version, kind of move and trial (a run, or a canary's experiment)."""
    approval = Approval(
        id=question_id(domain, number, kind, trial or run_id or "asked"),
        domain=domain,
        version=number,
        kind=kind,
        asked_at=work.clock(),
        reason=verdict.reason,
        run=run_id,
    )
    await work.registry.put_approval(approval)
    return f"waits for a person: {verdict.reason}"


def question_id(domain: str, number: int, kind: MoveKind, trial: str) -> str:
    """The same question has the same id, so that it is asked once."""
    return f"{domain}-{number}-{kind}-{trial[-16:]}"


def questions_of(domain: str, pointers: Deployment) -> set[str]:
    """What a running canary may have asked: whether to go on growing, whether to become stable."""
    if pointers.canary is None:
        return set()
    kinds: tuple[MoveKind, ...] = ("share", "promote")
    return {question_id(domain, pointers.canary, kind, pointers.experiment) for kind in kinds}


def _outcome(ended: Run) -> GateOutcome:
    outcome = (ended.gate or {}).get("outcome", "INCONCLUSIVE")
    known: dict[str, GateOutcome] = {"PASS": "PASS", "FAIL": "FAIL"}
    return known.get(outcome, "INCONCLUSIVE")


async def make_case(work: Work, domain: Domain, plan: RunPlan | None, number: int, outcome: GateOutcome) -> Case:
    """Everything the policy looks at. Without a plan (a version added by hand) the tasks speak neither for nor
    against it.
    """
    version = await work.registry.get_version(domain.name, number)
    deployment = await work.registry.deployment(domain.name)
    incumbent = ""
    if deployment.stable is not None:
        incumbent = (await work.registry.get_version(domain.name, deployment.stable)).system_prompt
    moves = [(e.kind, e.actor) for e in await work.registry.history(domain.name, limit=200)]
    tasks = plan.tasks if plan else ()
    agreement = await latest(work.registry, domain.name)
    return Case(
        outcome=outcome,
        policy=domain.promotion,
        incumbent_text=incumbent,
        challenger_text=version.system_prompt,
        promotions=sum(kind == "promote" and actor != SETTINGS_ACTOR for kind, actor in moves),
        automatic_in_a_row=policy.automatic_in_a_row(
            [m for m in moves if m[0] in {"promote", "canary", "rollback", "abort"}]
        ),
        freeze_after=work.settings.jobs.automatic_promotions,
        judged=any(t.judge.kind == "rubric" for t in tasks),
        judge_calibrated=agreement is not None and agreement.calibrated,
        fallback_units=any(t.fallback_units for t in tasks),
        one_loud_key=any(t.one_loud_key for t in tasks),
        cache_cost=await cost_of_a_swap(work, domain),
        cache_cost_limit_usd=work.settings.jobs.cache_cost_veto_usd,
    )


async def cost_of_a_swap(work: Work, domain: Domain) -> CacheCost:
    """Live conversations x their cached prefix, at the base model's price: what changing the prompt costs once."""
    recent = await work.registry.outcomes(domain.name, since=work.clock() - CACHE_LIFE, limit=10_000)
    price = None
    if domain.base_model:
        try:
            price = find_endpoint(work.settings, domain.base_model).price_in
        except BadModel:
            price = None
    return swap_cost(recent, price)


def swap_cost(recent: list[Outcome], price_in: float | None) -> CacheCost:
    """The system prompt stands first, so a new one invalidates everything after it: the whole prompt of each live
    unit.
    """
    last = {o.unit: o.prompt_tokens for o in sorted(recent, key=lambda o: o.at)}
    if not last:
        return CacheCost()
    return policy.cache_cost(len(last), math.ceil(statistics.fmean(last.values())), price_in)
