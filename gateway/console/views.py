"""What each page shows: its context, made from the registry."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec

from gateway.api.answers import Score, pointers
from gateway.api.control import Readiness
from gateway.api.scores import interval as mean_interval
from gateway.api.scores import scores_of
from gateway.console import trial
from gateway.console.contexts import (
    ArmRow,
    AuditPage,
    Chart,
    DomainPage,
    DomainRow,
    HealthPage,
    Interval,
    JobRow,
    JobsPage,
    KeysPage,
    Mark,
    Need,
    Overview,
    ReportPage,
    SamplesPage,
    Series,
    TaskRow,
    VersionPage,
)
from gateway.console.diff import blame, compare, rewritten
from gateway.console.schedule import WHAT_FIRES
from registry import (
    AuditEntry,
    Deployment,
    Domain,
    NotFound,
    Registry,
    Sample,
    Version,
)

PER_PAGE = 50
AUDIT_SHOWN = 200
HOUR = 3600.0
MOST_ANCESTORS = 40
REPORT = "report"
"""The kind of the audit entries that hold a domain's week."""


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
        Need(f"{a.domain}: version {a.version} waits for approval ({a.kind}): {a.reason}", "/approvals")
        for a in await registry.list_approvals()
        if not a.decision
    ]
    needs += [
        Need(f"{run.domain}: a search failed: {run.reason}", f"/runs/{run.id}")
        for run in await registry.list_runs(None, limit=20)
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


async def domain_page(registry: Registry, name: str, *, may_move: bool, now_s: float) -> DomainPage:
    """One domain. Raises NotFound."""
    domain = await registry.get_domain(name)
    deployment, scores, versions = await asyncio.gather(
        registry.deployment(name), scores_of(registry, name), registry.list_versions(name)
    )
    runs, audit, approvals, samples = await asyncio.gather(
        registry.list_runs(name),
        registry.history(name, 200, None),
        registry.list_approvals(),
        registry.samples(name, limit=2000),
    )
    looked = trial.last_look(audit, deployment)
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
        tasks=task_rows(domain, samples, deployment.stable),
        versions=sorted(versions, key=lambda v: -v.number),
        runs=runs[:10],
        traffic_usd=sum(s.cost for s in scores),
        search_usd=sum(run.usd for run in runs),
        audit=[entry for entry in audit if entry.kind not in (trial.LOOK, REPORT)][:15],
        approvals=[a for a in approvals if a.domain == name and not a.decision],
        trial=await trial.standing(registry, domain, deployment, audit, now_s=now_s),
        looks=trial.table_of(looked),
        looked_at=looked.at if looked else None,
        reported=any(entry.kind == REPORT for entry in audit),
        may_move=may_move,
        running=any(run.state in ("queued", "running") for run in runs),
    )


def task_rows(domain: Domain, samples: Sequence[Sample], stable: int | None) -> list[TaskRow]:
    """The tasks, named or found in the traffic, each with what its kept samples scored under the live version."""
    scores: dict[str, list[float]] = defaultdict(list)
    kept: dict[str, int] = defaultdict(int)
    for sample in samples:
        kept[sample.task] += 1
        if sample.version == stable and sample.score is not None:
            scores[sample.task].append(sample.score)
    rows = []
    for name in sorted({*domain.tasks, *kept} - {""}):
        task, of = domain.tasks.get(name), scores[name]
        mean, low, high = mean_interval(sum(of), sum(x * x for x in of), len(of))
        score = (
            Interval(mean, low, high, len(of)) if mean is not None and low is not None and high is not None else None
        )
        judge, prompt = (task.judge.kind, task.adapted_prompt or task.user_prompt) if task else ("", "")
        rows.append(TaskRow(name, judge or "", prompt or "", kept[name], score))
    return rows


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
    diff = await asyncio.to_thread(compare, other, version.system_prompt)
    origins = await asyncio.to_thread(blame, ancestors(texts, version))
    return VersionPage(
        title=f"{domain}, version {number}",
        section="Overview",
        domain=domain,
        version=version,
        deployment=pointers(deployment),
        against=against if against in texts else None,
        numbers=sorted(texts),
        diff=diff,
        rewritten=rewritten(diff),
        origins=origins,
        may_move=may_move,
    )


def ancestors(versions: Mapping[int, Version], version: Version) -> list[tuple[int, str]]:
    """(number, text) from the oldest known ancestor to the version itself; the nearest ``MOST_ANCESTORS`` of many."""
    chain: list[tuple[int, str]] = []
    current: Version | None = version
    seen: set[int] = set()
    while current is not None and current.number not in seen and len(chain) < MOST_ANCESTORS:
        seen.add(current.number)
        chain.append((current.number, current.system_prompt))
        current = versions.get(current.lineage.parent) if current.lineage.parent is not None else None
    return chain[::-1]


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


async def jobs_page(registry: Registry, *, page: int) -> JobsPage:
    """What runs by itself and when, what waits, and what ran."""
    domains, runs, waiting = await asyncio.gather(
        registry.list_domains(), registry.list_runs(None, limit=50), registry.open_triggers()
    )
    domains = sorted(domains, key=lambda d: d.name)
    pages = max(1, -(-len(domains) // PER_PAGE))
    page = min(max(page, 1), pages)
    shown = domains[(page - 1) * PER_PAGE : page * PER_PAGE]
    last = await asyncio.gather(*(registry.list_runs(d.name, limit=1) for d in shown))
    return JobsPage(
        title="Jobs and schedule",
        section="Jobs",
        jobs=list(WHAT_FIRES),
        waiting=sorted(waiting, key=lambda t: t.at)[:50],
        rows=[
            JobRow(d.name, d.schedule or "", found[0] if found else None) for d, found in zip(shown, last, strict=True)
        ],
        page=page,
        pages=pages,
        runs=runs,
    )


async def report_page(registry: Registry, domain: str, number: int | None) -> ReportPage:
    """A domain's week as the job ``report`` wrote it: of audit entry ``number``, else the newest. Raises NotFound."""
    await registry.get_domain(domain)
    reports = [entry for entry in await registry.history(domain, 2000, None) if entry.kind == REPORT]
    chosen = next((entry for entry in reports if number is None or entry.seq == number), None)
    if number is not None and chosen is None:
        raise NotFound(f"{domain!r} has no report {number}.")
    return ReportPage(
        title=f"Reports of {domain}",
        section="Overview",
        domain=domain,
        entry=chosen,
        facts=chosen.detail if chosen else {},
        reports=reports[:60],
    )


async def audit_page(registry: Registry, domain: str) -> AuditPage:
    """Who moved what: of one domain, or the newest of all and of the fleet. Raises NotFound."""
    domains = sorted(d.name for d in await registry.list_domains())
    if domain:
        await registry.get_domain(domain)
        entries = await registry.history(domain, AUDIT_SHOWN, None)
    else:
        each = 50  # what one round trip reads; only domains whose 50 are all among the newest are read further
        found = await asyncio.gather(
            registry.fleet_history(each), *(registry.history(name, each, None) for name in domains)
        )
        entries = sorted((e for some in found for e in some), key=lambda e: -e.at)
        floor = entries[AUDIT_SHOWN - 1].at if len(entries) >= AUDIT_SHOWN else 0.0
        busy = [some[0].domain for some in found if len(some) == each and some[-1].at >= floor]
        more = await asyncio.gather(*(registry.history(name, AUDIT_SHOWN, None) for name in busy))
        entries = [e for e in entries if e.domain not in busy] + [e for some in more for e in some]
    return AuditPage(
        title=f"Audit of {domain}" if domain else "Audit",
        section="Audit",
        audit=sorted(entries, key=lambda e: -e.at)[:AUDIT_SHOWN],
        domains=domains,
        domain=domain,
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
