"""Whether a domain has traffic enough to end a canary, and what is done where it has not: replay first.

A canary that cannot reach ``n_final`` judged units before its deadline ends inconclusive, whatever the version is
worth. For such a domain automation begins with a replay (job ``shadow``) of samples that come in after the version was
made: nobody is served its answers, and pairs need about a third of the units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobs.experiment import Plan, Rules
from jobs.work import Work
from registry import AuditEntry, Domain, Outcome

DAY = 86_400.0
LOOK_BACK = 7 * DAY
MOST_OUTCOMES = 60_000
WANTED = "replay-wanted"
"""Kind of the audit entry that asks for a replay; an entry of kind ``shadow`` for the same version answers it."""


async def why(work: Work, domain: Domain) -> str:
    """Why a canary of this domain would not come to an end, in words; empty when it would."""
    now = work.clock()
    recent = await work.registry.outcomes(domain.name, since=now - LOOK_BACK, limit=MOST_OUTCOMES)
    units = expected_units(recent, domain.canary, now)
    if units >= domain.canary.n_final:
        return ""
    days = Rules().deadline / DAY
    reached = f"about {units:.0f} of {domain.canary.n_final} units in {days:g} days"
    return f"traffic is too thin for the canary's last test: {reached}"


def expected_units(recent: Sequence[Outcome], plan: Plan, now: float, deadline: float | None = None) -> float:
    """Units that both arms would see until the deadline, at the pace of ``recent`` (units per day, seen since the first
    of them, at least a day) and the plan's exposure: twice the stage's share, in each stage for its dwell.
    """
    if not recent:
        return 0.0
    days = max(1.0, (now - min(o.at for o in recent)) / DAY)
    per_day = len({o.unit for o in recent}) / days
    left = (Rules().deadline if deadline is None else deadline) / DAY
    exposed = 0.0
    for place, share in enumerate(plan.stages):
        last = place == len(plan.stages) - 1
        stay = left if last else min(left, plan.dwell_hours[place] / 24)
        exposed += min(1.0, 2 * share) * stay
        left -= stay
    return per_day * exposed


async def want_replay(work: Work, domain: str, number: int, run: str, *, then: str, reason: str) -> None:
    """Write down that version ``number`` waits for a replay; ``then`` is what the policy allows after it."""
    detail = {"version": number, "run": run, "then": then}
    await work.registry.append_audit(domain, WANTED, "jobs", reason, detail, request_id=f"replay-{run}-{number}")


def wanted(history: Sequence[AuditEntry], answered: str, now: float) -> dict[str, Any] | None:
    """The newest wish for a replay that is not answered and not older than a canary's deadline. ``history``: newest
    first; ``answered``: the kind of the entries that answer."""
    done = {entry.detail.get("version") for entry in history if entry.kind == answered}
    for entry in history:
        if entry.kind == WANTED and now - entry.at < Rules().deadline:
            return None if entry.detail.get("version") in done else dict(entry.detail)
    return None
