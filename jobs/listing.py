"""What the commands print: jobs and when they run, runs and what became of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from jobs.cron import next_firing
from jobs.errors import BadSchedule
from jobs.schedule import JOBS, Plan
from jobs.scheduler import LEASE
from registry import Registry, Run, Settings


async def listing(registry: Registry, settings: Settings, clock: Callable[[], float] = time.time) -> dict[str, Any]:
    """All jobs with their next firings per domain, the triggers that wait, the elected scheduler; as JSON values."""
    now = clock()
    snapshot = await registry.snapshot()
    plans = [Plan(view.domain, view.deployment) for view in snapshot.domains.values()]
    rows = []
    for job in JOBS:
        coming: dict[str, str] = {}
        for plan in plans if job.scope == "domain" else []:
            expression = plan.domain.schedule if job.own_cron else job.cron
            if expression and job.wanted(plan):
                coming[plan.domain.name] = _next(expression, now)
        rows.append(
            {"name": job.name, "when": job.when(settings), "about": job.about, "lane": job.lane, "next": coming}
        )
    holder = await registry.lease_holder(LEASE)
    waiting = sorted(t.id for t in await registry.open_triggers())
    return {"jobs": rows, "waiting": waiting, "scheduler": holder[0] if holder else None}


def _next(expression: str, now: float) -> str:
    try:
        at = next_firing(expression, now)
    except BadSchedule as error:
        return str(error)
    return day(at) if at is not None else "never"


def day(at: float | None) -> str:
    """A time for people, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M") if at is not None else ""


def run_line(run: Run) -> str:
    """One run in one line."""
    gate = (run.gate or {}).get("outcome", "")
    version = f" -> version {run.version}" if run.version is not None else ""
    calls = sum(run.calls.values())
    return f"{run.id}  {day(run.queued_at)}  {run.state:<9} {run.method:<10} {calls:>6} calls  {gate}{version}"


def run_page(run: Run) -> str:
    """One run in full, for people."""
    lines = [run_line(run), f"asked by {run.asked_by}: {run.why}".rstrip(": ")]
    if run.reason:
        lines.append(run.reason)
    result = run.result or {}
    for name, part in (result.get("plan") or {}).get("left_out", {}).items():
        lines.append(f"left out: task {name}: {part}")
    if run.calls:
        spent = ", ".join(f"{n} {role}" for role, n in sorted(run.calls.items()))
        lines.append(f"calls: {spent}; {run.usd:.4f} USD")
    for generation in result.get("generations") or []:
        score = generation.get("score")
        lines.append(f"generation {generation.get('number')}: {'' if score is None else f'{score:.3f}'}")
    for row in (run.gate or {}).get("table") or []:
        passed = {True: "ok", False: "FAILED", None: "not measured"}[row.get("passed")]
        lines.append(f"  {row.get('name', ''):<24} {_figure(row.get('value')):>9}  {row.get('bound', ''):<24} {passed}")
    if result.get("winner"):
        lines += ["finalist:", result["winner"]]
    return "\n".join(lines)


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ""
