"""What a move would change and cost: shown before it is confirmed, and before a person approves it. The same for a
search.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from gateway.api.answers import pointers
from gateway.console.contexts import ApprovalsPage, Change, ConfirmPage, OptimizePage, WaitingRow
from gateway.console.diff import compare, rewritten
from registry import Approval, NotFound, Registry, Version

CACHE_LIFE = 3600.0
WAITING_SHOWN = 10
"""Approvals that are shown with their whole change; a longer queue is linked."""


async def approvals_page(registry: Registry, *, may_move: bool, now_s: float) -> ApprovalsPage:
    """What waits for a person, the oldest first, with what it would change and cost."""
    found = sorted(await registry.list_approvals(), key=lambda a: a.asked_at)
    waiting = [a for a in found if not a.decision]
    changes = await asyncio.gather(*(_asked_change(registry, a, now_s) for a in waiting[:WAITING_SHOWN]))
    return ApprovalsPage(
        title="Approvals",
        section="Approvals",
        waiting=[WaitingRow(a, change) for a, change in zip(waiting, [*changes, *[None] * len(waiting)], strict=False)],
        decided=[a for a in found if a.decision][::-1][:30],
        may_move=may_move,
    )


async def _asked_change(registry: Registry, approval: Approval, now_s: float) -> Change | None:
    """What the approved move would change; None when its version or domain is gone."""
    try:
        domain, version, deployment = await asyncio.gather(
            registry.get_domain(approval.domain),
            registry.get_version(approval.domain, approval.version),
            registry.deployment(approval.domain),
        )
        stable = await registry.get_version(approval.domain, deployment.stable) if deployment.stable else None
    except NotFound:
        return None
    share = min(domain.canary.stages, default=1.0) if approval.kind == "canary" else 1.0
    return await change_of(registry, approval.domain, stable, version, now_s=now_s, share=share)


async def change_of(
    registry: Registry, domain: str, old: Version | None, new: Version | None, *, now_s: float, share: float = 1.0
) -> Change:
    """The difference of two versions, and what it costs in prompt caches that a ``share`` of the units goes from one to
    the other.

    Providers keep a prompt's prefix for about an hour at most: the units seen in that time are the conversations whose
    next turn pays for its whole prefix once more.
    """
    texts = [version.system_prompt if version else "" for version in (old, new)]
    diff = await asyncio.to_thread(compare, *texts)
    recent = await registry.outcomes(domain, since=now_s - CACHE_LIFE, limit=10_000)
    return Change(
        before=old.number if old else None,
        after=new.number if new else None,
        diff=diff,
        rewritten=rewritten(diff),
        live_units=len({outcome.unit for outcome in recent}),
        prefix_tokens=sum(o.prompt_tokens for o in recent) // max(1, len(recent)),
        share=share,
    )


async def confirm_page(
    registry: Registry, domain: str, action: str, version: int | None, share: float, *, now_s: float
) -> ConfirmPage:
    """What a move would change: from what serves now to what would. Raises NotFound."""
    await registry.get_domain(domain)
    deployment = await registry.deployment(domain)
    texts = {v.number: v for v in await registry.list_versions(domain)}
    target = {"rollback": deployment.previous, "abort": deployment.stable}.get(action, version)
    now = deployment.canary if action == "abort" else deployment.stable
    reached = {"canary": share, "abort": deployment.share}.get(action, 1.0)
    old = texts.get(now) if now is not None else None
    new = texts.get(target) if target is not None else None
    warning = ""
    if action == "abort" and deployment.canary is None:
        warning = "No canary is running: there is nothing to end."
    elif action in ("promote", "canary", "rollback") and new is None:
        warning = "There is no such version to move to."
    elif new is not None and new.blocked:
        warning = f"This version is blocked: {new.blocked}"
    return ConfirmPage(
        title=f"{action.capitalize()} {domain}",
        section="Overview",
        domain=domain,
        action=action,
        version=target,
        share=share,
        epoch=deployment.epoch,
        deployment=pointers(deployment),
        change=await change_of(registry, domain, old, new, now_s=now_s, share=min(max(reached, 0.0), 1.0)),
        warning=warning,
    )


async def optimize_page(registry: Registry, name: str) -> OptimizePage:
    """What a search would work on and may spend. Raises NotFound."""
    domain = await registry.get_domain(name)
    deployment, runs, samples = await asyncio.gather(
        registry.deployment(name), registry.list_runs(name), registry.samples(name, limit=2000)
    )
    kept = Counter(sample.task for sample in samples)
    return OptimizePage(
        title=f"Optimize {name}",
        section="Overview",
        domain=domain,
        deployment=pointers(deployment),
        samples={task: kept[task] for task in sorted({*domain.tasks, *kept} - {""})},
        live_run=next((run.id for run in runs if run.state in ("queued", "running")), ""),
    )
