"""Job ``report``: the week of a domain on one page: what changed, what it was worth, what it cost.

The numbers stand in the domain's audit as ``report`` (the console and ``metaspo jobs report`` show them); ``page``
makes Markdown of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from jobs import judge
from jobs.canary_job import LOOK
from jobs.errors import NoWork
from jobs.scores import interval
from jobs.work import Work
from registry import Approval, AuditEntry, Registry, Run, Tally, describe

DAY = 86_400.0
WEEK = 7 * DAY
KIND = "report"
INCIDENTS = frozenset({"drift", "judge-void", "block"})


async def run(work: Work) -> str:
    """Write one domain's page. Raises NoWork when nothing happened and nobody asked."""
    domain = await work.domain()
    registry, until = work.registry, work.trigger.at
    since = until - WEEK
    history = await registry.history(domain.name, limit=2_000)
    facts = gather(
        domain.name,
        since,
        until,
        history,
        await registry.list_runs(domain.name, limit=200),
        await registry.outcome_totals(domain.name),
        await registry.list_approvals(domain.name, waiting_only=True),
        await judge.spent_since(work, domain.name, since),
    )
    if not facts["moves"] and not facts["runs"] and not facts["arms"]:
        raise NoWork("quiet_week", f"Nothing happened in {domain.name!r} this week.")
    why = headline(facts)
    await registry.append_audit(
        domain.name, KIND, actor="jobs", why=why, detail=facts, request_id=f"report-{work.trigger.id}"
    )
    return why


def gather(
    domain: str,
    since: float,
    until: float,
    history: Sequence[AuditEntry],
    runs: Sequence[Run],
    totals: Sequence[Tally],
    waiting: Sequence[Approval],
    judging: dict[str, float],
) -> dict[str, Any]:
    """The week's facts as plain JSON values.

    ``totals`` are sums since the domain exists; what the report of about a week ago had is taken off them.
    ``judging``: calls and USD that judging took.
    """
    began, earlier = _report_before(history, since)
    week = [e for e in history if since <= e.at <= until]
    searched = [r for r in runs if since <= (r.ended_at or r.queued_at) <= until]
    arms = []
    for tally in (_less(t, earlier.get(_name(t))) for t in totals):
        if tally.n:
            score = interval(tally) if tally.scored else None
            arms.append(
                {
                    "version": tally.version, "arm": tally.arm, "exchanges": tally.n, "errors": tally.errors,
                    "cost_usd": round(tally.cost, 4), "scored": tally.scored, "score": score,
                }
            )  # fmt: skip
    return {
        "domain": domain,
        "since": since,
        "until": until,
        "moves": [
            {"at": e.at, "kind": e.kind, "actor": e.actor, "what": describe(e.before, e.after), "why": e.why}
            for e in week
            if e.after is not None
        ],
        "runs": [
            {
                "id": r.id, "state": r.state, "outcome": (r.gate or {}).get("outcome"),
                "effect": (r.gate or {}).get("effect"),
                "version": r.version, "calls": sum(r.calls.values()), "usd": r.usd, "reason": r.reason,
            }
            for r in searched
        ],
        "spent": {"calls": sum(sum(r.calls.values()) for r in searched), "usd": sum(r.usd for r in searched)},
        "judging": {"calls": int(judging.get("calls", 0)), "usd": judging.get("usd", 0.0)},
        "arms": arms,
        "arms_since": began,
        "totals": {_name(t): [getattr(t, field) for field in SUMS] for t in totals},
        "worth": [{"at": e.at, "why": e.why} for e in week if e.kind == LOOK and e.detail.get("action") == "promote"],
        "waiting": [{"version": a.version, "kind": a.kind, "reason": a.reason} for a in waiting],
        "incidents": [{"at": e.at, "kind": e.kind, "why": e.why} for e in week if e.kind in INCIDENTS],
    }  # fmt: skip


SUMS = ("n", "errors", "cost", "scored", "score", "score_sq")
"""What of an arm's sums a report keeps, so that the next one can take it off."""


def _name(tally: Tally) -> str:
    return f"{tally.version}|{tally.arm}"


def _report_before(history: Sequence[AuditEntry], since: float) -> tuple[float | None, dict[str, list[float]]]:
    """(when the sums begin, None for the domain's beginning; the sums then), of the newest report that was no later."""
    for entry in history:
        if entry.kind == KIND and entry.detail.get("totals") and float(entry.detail["until"]) <= since + DAY / 2:
            return float(entry.detail["until"]), entry.detail["totals"]
    return None, {}


def _less(tally: Tally, before: Sequence[float] | None) -> Tally:
    if before is None:
        return tally
    left = {field: getattr(tally, field) - then for field, then in zip(SUMS, before, strict=True)}
    return msgspec.structs.replace(tally, **left)


def headline(facts: dict[str, Any]) -> str:
    """The week in one sentence."""
    promoted = sum(m["kind"] == "promote" for m in facts["moves"])
    back = sum(m["kind"] in {"rollback", "abort"} for m in facts["moves"])
    spent = facts["spent"]
    return (
        f"{promoted} promotions, {back} moves back, {len(facts['runs'])} searches"
        f" ({spent['calls']} calls, {spent['usd']:.2f} USD), judging {facts['judging']['calls']} calls"
        f" ({facts['judging']['usd']:.2f} USD), {len(facts['waiting'])} questions waiting."
    )


def page(facts: dict[str, Any]) -> str:
    """The facts as one Markdown page."""
    lines = [f"# {facts['domain']}: {_day(facts['since'])} to {_day(facts['until'])}", "", headline(facts), ""]
    lines += ["## What changed", ""]
    lines += [f"- {_day(m['at'])} {m['kind']} by {m['actor']}: {m['what']} ({m['why']})" for m in facts["moves"]] or [
        "Nothing."
    ]
    lines += [
        "",
        "## What it was worth",
        "",
        *(f"- {_day(w['at'])} promoted: {w['why']}" for w in facts["worth"]),
        *([""] if facts["worth"] else []),
        f"Since {_day(facts['arms_since'])}:" if facts["arms_since"] else "Since the domain exists:",
        "",
        "| version | arm | exchanges | errors | score | USD |",
        "|---|---|---:|---:|---|---:|",
    ]
    for arm in facts["arms"]:
        score = "{:.3f} ({:.3f} to {:.3f})".format(*arm["score"]) if arm["score"] else "not scored"
        lines.append(
            f"| {arm['version']} | {arm['arm']} | {arm['exchanges']} | {arm['errors']} | {score} | {arm['cost_usd']} |"
        )
    lines += ["", "## What was searched, and what it cost", ""]
    lines += [
        f"- {r['id']}: {r['state']}, {r['calls']} calls, {r['usd']:.2f} USD. {r['reason']}" for r in facts["runs"]
    ] or ["No searches."]
    lines += ["", "## What waits for a person", ""]
    lines += [f"- {a['kind']} of version {a['version']}: {a['reason']}" for a in facts["waiting"]] or ["Nothing."]
    if facts["incidents"]:
        lines += [
            "",
            "## What went wrong",
            "",
            *(f"- {_day(i['at'])} {i['kind']}: {i['why']}" for i in facts["incidents"]),
        ]
    return "\n".join(lines) + "\n"


async def latest(registry: Registry, domain: str) -> dict[str, Any] | None:
    """The last report of a domain; None when there is none yet."""
    for entry in await registry.history(domain, limit=1_000):
        if entry.kind == KIND:
            return entry.detail
    return None


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")
