"""What each page shows: its context, made from the registry."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway.api.answers import Score, pointers
from gateway.api.control import Readiness
from gateway.api.scores import scores_of
from gateway.console.contexts import (
    ApprovalsPage,
    ArmRow,
    AuditPage,
    Chart,
    ConfirmPage,
    DomainPage,
    DomainRow,
    GenerationRow,
    HealthPage,
    Interval,
    JobRow,
    JobsPage,
    KeysPage,
    Mark,
    Need,
    Overview,
    RunPage,
    SamplesPage,
    Series,
    VersionPage,
)
from gateway.console.diff import blame, compare, rewritten
from registry import (
    AuditEntry,
    Deployment,
    NotFound,
    Registry,
    Sample,
    Version,
)

PER_PAGE = 50
HOUR = 3600.0
CACHE_LIFE = HOUR


def interval(score: Score) -> Interval | None:
    """The mean with its interval, None without a judged exchange."""
    if score.score is None or score.low is None or score.high is None:
        return None
    return Interval(score.score, score.low, score.high, score.scored)


def served_score(scores: Sequence[Score], deployment: Deployment) -> Interval | None:
    """The score of the version that serves as stable, over the arms that serve it."""
    own = [s for s in scores if s.version == deployment.stable and s.score is not None]
    return max((i for s in own if (i := interval(s))), key=lambda i: i.n, default=None)


async def overview(registry: Registry, *, query: str, page: int) -> Overview:
    """The first page."""
    domains = sorted(d.name for d in await registry.list_domains() if query.lower() in d.name.lower())
    pages = max(1, -(-len(domains) // PER_PAGE))
    page = min(max(page, 1), pages)
    shown = domains[(page - 1) * PER_PAGE : page * PER_PAGE]
    rows = await asyncio.gather(*(_row(registry, name) for name in shown))
    needs = [
        Need(f"{a.domain}: version {a.version} waits for a word ({a.kind}): {a.reason}", "/approvals")
        for a in await registry.list_approvals()
        if not a.decision
    ]
    needs += [
        Need(f"{run.domain}: a search failed: {run.reason}", f"/runs/{run.id}")
        for run in sorted(await registry.list_runs(None), key=lambda r: -r.queued_at)[:20]
        if run.state == "failed"
    ]
    return Overview(
        title="Overview",
        section="Overview",
        rows=[row for row in rows if row],
        needs=needs,
        query=query,
        page=page,
        pages=pages,
        total=len(domains),
    )


async def _row(registry: Registry, name: str) -> DomainRow | None:
    try:
        domain, deployment, scores = await asyncio.gather(
            registry.get_domain(name), registry.deployment(name), scores_of(registry, name)
        )
    except NotFound:
        return None  # deleted since it was listed
    return DomainRow(
        name,
        pointers(deployment),
        served_score(scores, deployment),
        sum(s.requests for s in scores),
        sum(s.errors for s in scores),
        domain.promotion,
    )


def score_chart(samples: Sequence[Sample], audit: Sequence[AuditEntry], *, bucket: float = HOUR) -> Chart:
    """Mean score per hour and version, with promotions and rollbacks marked."""
    sums: dict[int, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        if sample.score is not None and sample.version is not None:
            sums[sample.version][sample.at // bucket * bucket].append(sample.score)
    x = sorted({at for by_time in sums.values() for at in by_time})
    series = [
        Series(f"version {n}", [sum(v) / len(v) if (v := sums[n].get(at)) else None for at in x]) for n in sorted(sums)
    ]
    marks = [
        Mark(entry.at, entry.kind, entry.kind == "rollback") for entry in audit if entry.kind in ("promote", "rollback")
    ]
    return Chart(x, series, marks, (0.0, 1.0))


async def domain_page(registry: Registry, name: str, *, may_move: bool) -> DomainPage:
    """One domain. Raises NotFound."""
    domain = await registry.get_domain(name)
    deployment, scores, versions = await asyncio.gather(
        registry.deployment(name), scores_of(registry, name), registry.list_versions(name)
    )
    runs, audit, approvals, samples = await asyncio.gather(
        registry.list_runs(name),
        registry.history(name, 30, None),
        registry.list_approvals(),
        registry.samples(name, limit=2000),
    )
    runs = sorted(runs, key=lambda run: -run.queued_at)
    return DomainPage(
        title=name,
        section="Overview",
        domain=domain,
        deployment=pointers(deployment),
        chart=score_chart(samples, audit),
        arms=[
            ArmRow(s.arm, s.version, s.requests, s.errors, s.latency_mean, s.cost, interval(s))
            for s in sorted(scores, key=lambda s: (-(s.version or 0), s.arm))
        ],
        versions=sorted(versions, key=lambda v: -v.number),
        runs=runs[:10],
        audit=[entry for entry in audit if entry.kind != "look"][:15],
        approvals=[a for a in approvals if a.domain == name and not a.decision],
        looks=canary_table(audit, deployment),
        may_move=may_move,
        running=any(run.state in ("queued", "running") for run in runs),
    )


def canary_table(audit: Sequence[AuditEntry], deployment: Deployment) -> list[dict[str, Any]]:
    """The tests of the running canary as of the last look that was written down."""
    if deployment.canary is None:
        return []
    for entry in audit:
        table = entry.detail.get("table")
        if isinstance(table, list) and table:
            return table
    return []


async def version_page(
    registry: Registry, domain: str, number: int, against: int | None, *, may_move: bool
) -> VersionPage:
    """One version beside another: the one asked for, else its parent, else what serves now. Raises NotFound."""
    version, versions, deployment = await asyncio.gather(
        registry.get_version(domain, number), registry.list_versions(domain), registry.deployment(domain)
    )
    texts = {v.number: v for v in versions}
    if against is None:
        against = next((n for n in (version.lineage.parent, deployment.stable) if n in texts and n != number), None)
    other = texts[against].system_prompt if against in texts else ""
    return VersionPage(
        title=f"{domain}, version {number}",
        section="Overview",
        domain=domain,
        version=version,
        deployment=pointers(deployment),
        against=against if against in texts else None,
        numbers=sorted(texts),
        diff=compare(other, version.system_prompt),
        rewritten=rewritten(other, version.system_prompt),
        origins=blame(ancestors(texts, version)),
        may_move=may_move,
    )


def ancestors(versions: Mapping[int, Version], version: Version) -> list[tuple[int, str]]:
    """(number, text) from the oldest known ancestor to the version itself."""
    chain: list[tuple[int, str]] = []
    current: Version | None = version
    while current is not None and current.number not in {number for number, _ in chain}:
        chain.append((current.number, current.system_prompt))
        current = versions.get(current.lineage.parent) if current.lineage.parent is not None else None
    return chain[::-1]


async def run_page(registry: Registry, id: str) -> RunPage:
    """One search. Raises NotFound."""
    run, stored = await asyncio.gather(registry.get_run(id), registry.run_events(id))
    events = [event for _, event in stored]
    generations = generation_rows(events)
    spent, budget = spending(events)
    return RunPage(
        title=f"Search {id[:20]}",
        section="Jobs",
        run=run,
        events=[line for event in events if (line := event_text(event))][-400:],
        generations=generations,
        chart=Chart(
            [float(row.calls or 0) for row in generations],
            [Series("best score on the select split", [row.score for row in generations])],
        ),
        last_event=stored[-1][0] if stored else "0",
        live=run.state in ("queued", "running"),
        spent=max(spent, sum(run.calls.values())),
        budget=budget,
        failures=failure_counts(events),
    )


def data_of(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """An event's values."""
    data = event.get("data")
    return data if isinstance(data, Mapping) else {}


def event_text(event: Mapping[str, Any]) -> str:
    """One event of a search as a line; empty for mere progress."""
    message = str(event.get("message") or event.get("text") or "")
    return f"{event.get('kind', '')}: {message}" if message else ""


def generation_rows(events: Sequence[Mapping[str, Any]]) -> list[GenerationRow]:
    """The generations that the events tell of, in order."""
    rows: list[GenerationRow] = []
    for event in events:
        if event.get("kind") == "generation":
            data = data_of(event)
            score, calls = data.get("score"), data.get("calls")
            if isinstance(calls, Mapping):
                calls = sum(calls.values())  # by role
            rows.append(
                GenerationRow(
                    number=len(rows) + 1,
                    score=float(score) if isinstance(score, int | float) else None,
                    best=str(data.get("best") or ""),
                    calls=calls if isinstance(calls, int) else None,
                )
            )
    return rows


def spending(events: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Calls spent and the budget, as the last progress told them; zeros when none did."""
    for event in reversed(events):
        data = data_of(event)
        if event.get("kind") == "progress" and isinstance(data.get("calls"), int):
            return int(data["calls"]), int(data.get("budget") or 0)
    return 0, 0


def failure_counts(events: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Failures of the last analysis by type, added up over the tasks."""
    for event in reversed(events):
        counts = data_of(event).get("counts")
        if event.get("kind") == "failures" and isinstance(counts, Mapping):
            total: dict[str, int] = defaultdict(int)
            for name, value in counts.items():
                for kind, count in value.items() if isinstance(value, Mapping) else [(name, value)]:
                    total[str(kind)] += int(count)
            return dict(total)
    return {}


def in_band(score: float | None, band: str) -> bool:
    """Whether a score is in the band ``low``, ``high``, ``none``, or (any other word) any."""
    if score is None or band == "none":
        return score is None and band not in ("low", "high")
    return {"low": score < 0.5, "high": score >= 0.5}.get(band, True)


async def samples_page(registry: Registry, domain: str, *, task: str, band: str, may_move: bool) -> SamplesPage:
    """Kept exchanges, newest first, of a task and a band of scores. Raises NotFound."""
    known = await registry.get_domain(domain)
    found = await registry.samples(domain, task=task or None, limit=500)
    samples = sorted((s for s in found if in_band(s.score, band)), key=lambda s: -s.at)
    tasks = sorted({*known.tasks, *(s.task for s in found)} - {""})
    return SamplesPage(
        title=f"Samples of {domain}",
        section="Overview",
        domain=domain,
        samples=samples[:100],
        tasks=tasks,
        task=task,
        band=band,
        may_move=may_move,
    )


async def jobs_page(registry: Registry) -> JobsPage:
    """What runs when, and what ran."""
    domains, runs = await asyncio.gather(registry.list_domains(), registry.list_runs(None))
    runs = sorted(runs, key=lambda run: -run.queued_at)
    rows = [
        JobRow(d.name, d.schedule or "", next((r for r in runs if r.domain == d.name), None))
        for d in sorted(domains, key=lambda d: d.name)
    ]
    return JobsPage(title="Jobs and schedule", section="Jobs", rows=rows, runs=runs[:50])


async def audit_page(registry: Registry, domain: str) -> AuditPage:
    """Who moved what: of one domain, or the newest of all."""
    domains = sorted(d.name for d in await registry.list_domains())
    wanted = [domain] if domain else domains
    entries = [e for found in await asyncio.gather(*(registry.history(n, 100, None) for n in wanted)) for e in found]
    return AuditPage(
        title=f"Audit of {domain}" if domain else "Audit",
        section="Audit",
        audit=sorted(entries, key=lambda e: -e.at)[:200],
        domains=domains,
        domain=domain,
    )


async def approvals_page(registry: Registry, *, may_move: bool) -> ApprovalsPage:
    """What waits for a person, the oldest first."""
    found = sorted(await registry.list_approvals(), key=lambda a: a.asked_at)
    return ApprovalsPage(
        title="Approvals",
        section="Approvals",
        waiting=[a for a in found if not a.decision],
        decided=[a for a in found if a.decision][::-1][:30],
        may_move=may_move,
    )


async def keys_page(registry: Registry, *, may_move: bool) -> KeysPage:
    """All keys; texts and hashes are never shown."""
    keys, domains = await asyncio.gather(registry.list_keys(), registry.list_domains())
    shown = [msgspec.structs.replace(key, hash="") for key in sorted(keys, key=lambda k: (k.name, k.created_at))]
    return KeysPage(
        title="Keys", section="Keys", keys=shown, domains=sorted(d.name for d in domains), may_move=may_move
    )


async def health_page(registry: Registry, readiness: Readiness) -> HealthPage:
    """How this gateway is."""
    age = readiness.snapshot_age
    return HealthPage(
        title="Health",
        section="Health",
        ready=readiness.ready,
        facts={
            "Serving": "ready" if readiness.ready else readiness.reason or "starting",
            "Registry": "reachable"
            if await registry.ping()
            else "not reachable; traffic is served from the last known state",
            "Age of the snapshot": f"{age:.1f} s" if age is not None else "none yet",
        },
        refused=dict(registry.refused),
    )


async def confirm_page(
    registry: Registry, domain: str, action: str, version: int | None, share: float, *, now_s: float
) -> ConfirmPage:
    """What a move would change: the difference of what serves now and what would, and the cost in prompt caches.

    Providers keep a prompt's prefix for about an hour at most: the units seen in that time are the conversations whose
    next turn pays for its whole prefix once more.
    """
    deployment = await registry.deployment(domain)
    texts = {v.number: v for v in await registry.list_versions(domain)}
    target = {"rollback": deployment.previous, "abort": deployment.stable}.get(action, version)
    now = deployment.canary if action == "abort" else deployment.stable
    old = texts[now].system_prompt if now in texts else ""
    new = texts[target].system_prompt if target in texts else ""
    warning = ""
    if action in ("promote", "canary", "rollback") and target not in texts:
        warning = "There is no such version to move to."
    elif target in texts and texts[target].blocked:
        warning = f"This version is blocked: {texts[target].blocked}"
    recent = await registry.outcomes(domain, since=now_s - CACHE_LIFE, limit=10_000)
    return ConfirmPage(
        title=f"{action.capitalize()} {domain}",
        section="Overview",
        domain=domain,
        action=action,
        version=target,
        share=share,
        epoch=deployment.epoch,
        deployment=pointers(deployment),
        diff=compare(old, new),
        rewritten=rewritten(old, new),
        live_units=len({outcome.unit for outcome in recent}),
        prefix_tokens=sum(o.prompt_tokens for o in recent) // max(1, len(recent)),
        warning=warning,
    )
