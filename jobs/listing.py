"""What the commands print: jobs and when they run, runs and what became of them."""

from __future__ import annotations

import textwrap
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


WIDTH = 80
"""Columns that every line fits, but for texts that are shown as they are."""


def jobs_page(rows: dict[str, Any]) -> str:
    """What `listing` found, for people."""
    lines: list[str] = []
    for row in rows["jobs"]:
        lines += _hung(f"{row['name']:<10} {row['when']:<26} ", row["about"])
        for domain, at in row["next"].items():
            lines += _hung(" " * 13, f"{domain}: next {at}")
    waiting = ", ".join(rows["waiting"]) or "nothing"
    lines += _hung("waiting: ", f"{waiting}; scheduler: {rows['scheduler'] or 'none is running'}")
    return "\n".join(lines)


def _hung(head: str, text: str) -> list[str]:
    """``text`` after ``head``, its further lines under its first."""
    return textwrap.wrap(text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head)) or [head.rstrip()]


def run_line(run: Run) -> str:
    """One run in one line; in two where its id leaves no room."""
    gate = (run.gate or {}).get("outcome", "")
    version = f" -> version {run.version}" if run.version is not None else ""
    calls = sum(run.calls.values())
    about = f"{day(run.queued_at)}  {run.state:<9} {run.method:<10} {calls:>6} calls  {gate}{version}".rstrip()
    return f"{run.id}  {about}" if len(run.id) + 2 + len(about) <= WIDTH else f"{run.id}\n  {about}"


def run_page(run: Run) -> str:
    """One run in full, for people."""
    from optimizer import gate_table

    lines = [run_line(run), *_hung("asked by ", f"{run.asked_by}: {run.why}".rstrip(": "))]
    lines += _hung("", run.reason) if run.reason else []
    result = run.result or {}
    for name, part in (result.get("plan") or {}).get("left_out", {}).items():
        lines += _hung("left out: ", f"task {name}: {part}")
    if run.calls:
        spent = ", ".join(f"{n} {role}" for role, n in sorted(run.calls.items()))
        lines.append(f"calls: {spent}; {run.usd:.4f} USD")
    for generation in result.get("generations") or []:
        score = generation.get("score")
        lines.append(f"generation {generation.get('number')}: {'' if score is None else f'{score:.3f}'}")
    lines += gate_table((run.gate or {}).get("table") or [])
    if result.get("winner"):
        lines += ["finalist:", result["winner"]]
    return "\n".join(lines)
