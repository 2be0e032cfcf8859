"""A running canary: where it stands, what its tests said at the last look, and when it may decide.

The decisions are the jobs'; here their planned sizes (the domain's `CanaryPlan`) meet the units counted so far.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from gateway.console.contexts import Standing
from registry import Arm, AuditEntry, CanaryPlan, Deployment, Domain, Registry

HOUR = 3600.0
LOOK = "canary-look"
"""The kind of the audit entries that hold a look's table."""
ARMS: tuple[Arm, Arm] = ("canary", "control")


def last_look(audit: Sequence[AuditEntry], deployment: Deployment) -> AuditEntry | None:
    """The newest look at what is on trial now; ``audit`` is newest first."""
    if deployment.canary is None and deployment.holdback is None:
        return None
    began, _ = began_at(audit, deployment)
    phase = "ramp" if deployment.canary is not None else "holdback"
    looks = (e for e in audit if e.kind == LOOK and e.at >= began and e.detail.get("table"))
    return next((e for e in looks if e.detail.get("phase", phase) == phase), None)


def table_of(look: AuditEntry | None) -> list[dict[str, Any]]:
    """The rows of a look: name, value (None when it is not finite), bound, crossed."""
    rows = look.detail.get("table") if look else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def began_at(audit: Sequence[AuditEntry], deployment: Deployment) -> tuple[float, float]:
    """(when the trial began, when its present stage began), from the moves; the last move where they tell nothing."""
    stage: float | None = None
    for entry in audit:
        if entry.after is None or entry.after.experiment != deployment.experiment:
            continue
        if stage is None and entry.kind in ("canary", "share", "holdback"):
            stage = entry.at
        if entry.before is None or entry.before.experiment != deployment.experiment:
            return entry.at, stage if stage is not None else entry.at
    return deployment.moved_at, stage if stage is not None else deployment.moved_at


async def standing(
    registry: Registry, domain: Domain, deployment: Deployment, audit: Sequence[AuditEntry], *, now_s: float
) -> Standing | None:
    """Where the running canary stands; None without one."""
    if deployment.canary is None:
        return None
    tallies = await asyncio.gather(
        *(registry.unit_scores(domain.name, experiment=deployment.experiment, arm=arm) for arm in ARMS)
    )
    units: dict[str, int] = {}
    judged: dict[str, int] = {}
    for arm, found in zip(ARMS, tallies, strict=True):
        units[arm] = sum(1 for t in found if t.unit)
        judged[arm] = sum(1 for t in found if t.unit and t.scored)
    began, stage_began = began_at(audit, deployment)
    plan = domain.canary
    stage = stage_of(plan, deployment.share)
    rate = sum(judged.values()) / max((now_s - began) / HOUR, 0.5)  # the first minutes tell little
    return Standing(
        stage=stage + 1,
        stages=len(plan.stages),
        began_at=began,
        stage_ends_at=stage_began + dwell(plan, stage),
        units=units,
        judged=judged,
        needed=plan.n_final,
        judged_per_hour=rate,
        decides_at=decides_at(plan, stage, deployment.share, stage_began, sum(judged.values()), rate, now_s),
    )


def stage_of(plan: CanaryPlan, share: float) -> int:
    """Index of the stage that exposes ``share``; the first when it lies below all."""
    return max(0, sum(1 for s in plan.stages if s <= share + 1e-9) - 1)


def dwell(plan: CanaryPlan, stage: int) -> float:
    """Seconds that a stage lasts at least."""
    hours = plan.dwell_hours
    return hours[min(stage, len(hours) - 1)] * HOUR if hours else 0.0


def decides_at(
    plan: CanaryPlan, stage: int, share: float, stage_began: float, judged: int, rate: float, now: float
) -> float | None:
    """The earliest time of the final test: each stage lasts its dwell, the last until ``n_final`` units are judged.

    ``rate``: judged units an hour at ``share``; it grows with the share. None when nothing is judged yet.
    """
    if rate <= 0 or share <= 0:
        return None
    at, have = now, float(judged)
    for index in range(stage, len(plan.stages)):
        pace = rate / HOUR * max(plan.stages[index], share) / share
        begins = stage_began if index == stage else at
        ends = max(at, begins + dwell(plan, index))
        if index == len(plan.stages) - 1:
            return max(ends, at + max(0.0, plan.n_final - have) / pace)
        have += pace * (ends - at)
        at = ends
    return at
