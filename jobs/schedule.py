"""What happens by itself, and when.

Every ``TICK`` each scheduler looks at the clock; one of them, the holder of the lease ``scheduler``, acts:

1. read the domains and their pointers, in one round trip;
2. ``due``: which firings lie between the last look and now? A pure function of two instants, so every scheduler would
   find the same ones and give them the same names;
3. write each as a trigger. A name is written once, whoever writes it: that makes a firing happen once, also when two
   schedulers believe themselves elected or one comes back after a pause;
4. take the triggers that wait, whoever wrote them (this schedule, the console, the CLI, a job), and ring the queue
   for those that nobody holds the lease of.

Workers do the rest (``worker.py``). A trigger stays in the registry until its job is done; when a worker dies, its
lease lapses and the trigger is taken again.

What fires:

    when                                   job        for
    -------------------------------------  ---------  ---------------------------------------------------------------
    the domain's own cron expression       optimize   each domain with a ``schedule``
    weekly, Sunday 04:30                   global     ``global``, once two domains opted in to meta-learning
    every 2 s while a pointer is on trial  canary     each domain with a canary or a holdback
    every 10 minutes                       judge      each domain: fresh samples, oldest first, within the daily budget
    every 10 minutes                       drift      each domain with a stable version; may ask for ``optimize``
    every 6 hours                          curate     each domain: what could be learned from now
    nightly, 02:40                         calibrate  each domain with a judge model
    every 2 s where webhooks are set       tell       the fleet
    hourly, at :17                         retention  the fleet
    weekly, Monday 06:00                   report     each domain
    only when asked                        adapt      a task of a domain
    every hour, and when asked             shadow     a version of a domain with little traffic
    once a person has approved             approval   the move that was approved

A firing that was missed (no scheduler up) is made up for if it is not older than ``LOOK_BACK``; of several missed
ones only the last. While a firing of the same job and domain still waits, no further one is written. A clock that
jumps forward is such a pause; one that jumps back finds its firings already written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import msgspec

from jobs.cron import firings
from jobs.errors import BadSchedule
from jobs.queue import Lane
from registry import GLOBAL, Approval, Deployment, Domain, Run, Settings, Trigger

TICK = 0.5
PLANS_EVERY = 1.0
"""Seconds between two looks at what is due; in between only triggers of others are handed out."""
LOOK_AGAIN = 5.0
"""Seconds after which a trigger that is not done is looked at again: so long after its lease lapsed, at most, a killed
worker's job moves on."""
RING_AT_LEAST_EVERY = 120.0
"""Seconds between two messages for a trigger that nobody takes: all workers may be busy."""
LOOK_BACK = 6 * 3600.0
ORPHAN_AFTER = 30.0
SWEEP_EVERY = 15.0
FLEET = "*"
"""The domain of firings that concern no single domain."""

log = logging.getLogger("metaspo.jobs.schedule")

Scope = Literal["domain", "fleet"]


class Plan(msgspec.Struct, frozen=True):
    """One domain as the schedule sees it."""

    domain: Domain
    deployment: Deployment


def _always(_: Plan) -> bool:
    return True


class Job(msgspec.Struct, frozen=True):
    """One kind of work: what it does, in which lane, and when it fires. Neither ``cron`` nor ``every``: only when
    asked.

    ``timing`` is filled in from the settings for jobs whose pace the operator may set.
    """

    name: str
    about: str
    lane: Lane
    cron: str | None = None
    every: Callable[[Settings], float] | None = None
    own_cron: bool = False
    """True: the domain's own ``schedule`` says when."""
    scope: Scope = "domain"
    wanted: Callable[[Plan], bool] = _always

    def when(self, settings: Settings) -> str:
        """For people."""
        if self.own_cron:
            return "the domain's schedule"
        if self.cron:
            return self.cron
        pace = self.every(settings) if self.every else 0.0
        return f"every {pace:g} s" if pace else "when asked"


def _on_trial(plan: Plan) -> bool:
    return plan.deployment.canary is not None or plan.deployment.holdback is not None


def _live(plan: Plan) -> bool:
    return plan.deployment.stable is not None


def _judged(plan: Plan) -> bool:
    return plan.domain.judge_model is not None


def _is_global(plan: Plan) -> bool:
    return plan.domain.name == GLOBAL


JOBS: tuple[Job, ...] = (
    Job("canary", "looks at canaries and holdbacks; moves their pointers", "urgent",
        every=lambda s: s.jobs.canary_every_seconds, wanted=_on_trial),
    Job("judge", "scores fresh samples of every arm", "upkeep", every=lambda s: s.jobs.judge_every_minutes * 60),
    Job("drift", "asks for a search when scores leave their band", "upkeep", every=lambda _: 600.0, wanted=_live),
    Job("curate", "makes datasets of the samples", "upkeep", every=lambda s: s.jobs.curate_every_hours * 3600),
    Job("calibrate", "compares the judge with people and with itself", "upkeep", cron="40 2 * * *", wanted=_judged),
    Job("optimize", "searches for a better system prompt", "search", own_cron=True),
    Job("global", "searches for the prompt that all domains share", "search", cron="30 4 * * 0", wanted=_is_global),
    Job("adapt", "writes a user prompt for a task under its domain's system prompt", "search"),
    Job("shadow", "replays traffic under a version that nobody is served", "search",
        every=lambda s: 3600.0 if s.jobs.shadow_first else 0.0, wanted=_live),
    Job("approval", "makes the move that a person approved", "urgent"),
    Job("tell", "sends webhooks of promotions, rollbacks and waiting approvals", "urgent",
        every=lambda s: 2.0 if s.gateway.webhooks else 0.0, scope="fleet"),
    Job("retention", "removes what is older than it may be", "upkeep", cron="17 * * * *", scope="fleet"),
    Job("report", "writes the week of a domain on one page", "upkeep", cron="0 6 * * 1"),
)  # fmt: skip

BY_NAME = {job.name: job for job in JOBS}


def due(
    plans: Iterable[Plan],
    settings: Settings,
    since: float,
    now: float,
    waiting: frozenset[tuple[str, str]] = frozenset(),
) -> list[Trigger]:
    """The firings in ``(since, now]``: for each job and domain at most the last one, none where one still waits.

    ``waiting`` holds (job, domain) of the triggers that are not done yet. An unreadable schedule fires nothing and is
    logged.
    """
    since = max(since, now - LOOK_BACK)
    if since >= now:
        return []
    fired = []
    for job, plan in _pairs(list(plans)):
        domain = plan.domain.name if plan else FLEET
        if (job.name, domain) in waiting:
            continue
        at = _last_firing(job, plan, settings, since, now)
        if at is not None:
            fired.append(
                Trigger(
                    id=firing_id(job.name, domain, at),
                    job=job.name,
                    domain=domain,
                    at=at,
                    by="schedule",
                    why=job.when(settings),
                )
            )
    return fired


def approved(approvals: Iterable[Approval], now: float) -> list[Trigger]:
    """A firing for each approval that a person gave lately. Its id is the approval's: it is carried out once."""
    return [
        Trigger(
            id=f"approval:{a.id}", job="approval", domain=a.domain, at=now, by=a.by, why=a.why, args={"approval": a.id}
        )
        for a in approvals
        if a.decision == "approved" and a.decided_at is not None and abs(now - a.decided_at) < LOOK_BACK
    ]


def orphaned(runs: Iterable[Run], now: float) -> list[Trigger]:
    """A firing for each run that was asked for and whose trigger never came: who asked died in between.

    It has the id that the asker gives it, so that it is written only when that one was not.
    """
    return [
        Trigger(
            id=f"optimize-{r.id}", job="optimize", domain=r.domain, at=now, by=r.asked_by, why=r.why,
            args={"run": r.id, "method": r.method, **({"budget": msgspec.to_builtins(r.budget)} if r.budget else {})},
        )
        for r in runs
        if r.state == "queued" and ORPHAN_AFTER < now - r.queued_at < LOOK_BACK
    ]  # fmt: skip


def firing_id(job: str, domain: str, at: float) -> str:
    """The same for whoever computes it: whole milliseconds, so that half-second paces have names of their own."""
    return f"{job}:{domain}:{round(at * 1000)}"


def _pairs(plans: list[Plan]) -> Iterator[tuple[Job, Plan | None]]:
    """Every job with each domain that wants it; fleet jobs once."""
    opted_in = sum(p.domain.meta_learning and p.domain.name != GLOBAL for p in plans)
    for job in JOBS:
        if job.scope == "fleet":
            yield job, None
            continue
        for plan in plans:
            learns = job.name != "global" or opted_in >= 2
            if learns and job.wanted(plan):
                yield job, plan


def _last_firing(job: Job, plan: Plan | None, settings: Settings, since: float, now: float) -> float | None:
    expression = job.cron
    if job.own_cron:
        expression = plan.domain.schedule if plan else None
    if expression:
        try:
            found = firings(expression, since, now, most=1)
        except BadSchedule as error:
            log.warning("%s", error)
            return None
        return found[-1] if found else None
    if job.every:
        pace = job.every(settings)
        if not pace:
            return None
        at = now // pace * pace
        return at if at > since else None
    return None
