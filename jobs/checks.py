"""What ``metaspo doctor`` asks of the clock: can models be resolved, schedules read, and is anybody working?"""

from __future__ import annotations

from jobs import grouping
from jobs.connect import open_registry, redis_address
from jobs.cron import next_firing
from jobs.errors import BadModel, BadSchedule, JobsError
from jobs.scheduler import LEASE
from jobs.settings import find_endpoint
from registry import DomainSettings, Finding, RegistryError, Settings


async def check(settings: Settings) -> list[Finding]:
    """Everything that can be said without changing anything."""
    findings = [f for name, domain in settings.domains.items() for f in check_domain(settings, name, domain)]
    return [*findings, *_grouping(settings), *await _at_work(settings)]


def _grouping(settings: Settings) -> list[Finding]:
    """The embedding model, where one is set."""
    model = settings.jobs.embedding_model
    if not model:
        return []
    name, mend = "jobs.embedding_model", "Mend jobs.embedding_model."
    if not grouping.installed():
        return [Finding(name=name, ok=False, message=grouping.MISSING, mend="Install the extra `embeddings`.")]
    try:
        find_endpoint(settings, model)
    except BadModel as error:
        return [Finding(name=name, ok=False, message=str(error), mend=mend)]
    return [Finding(name=name, ok=True, message=f"Messages without a task are grouped by {model}.")]


def check_domain(settings: Settings, name: str, domain: DomainSettings) -> list[Finding]:
    """Schedule and models of one domain of the file."""
    findings = []
    if domain.schedule:
        try:
            fires = next_firing(domain.schedule, 0.0) is not None
            told = f"{domain.schedule!r} can be read." if fires else f"{domain.schedule!r} never fires."
            mend = "" if fires else f"Mend domains.{name}.schedule."
            findings.append(Finding(name=f"{name}: schedule", ok=fires, message=told, mend=mend))
        except BadSchedule as error:
            findings.append(
                Finding(name=f"{name}: schedule", ok=False, message=str(error), mend=f"Mend domains.{name}.schedule.")
            )
    for role in ("base_model", "optimizer_model", "judge_model", "audit_judge_model"):
        model = getattr(domain, role)
        if model:
            try:
                find_endpoint(settings, model)
            except BadModel as error:
                findings.append(
                    Finding(name=f"{name}: {role}", ok=False, message=str(error), mend=f"Mend domains.{name}.{role}.")
                )
    return findings


async def _at_work(settings: Settings) -> list[Finding]:
    try:
        redis_address(settings)
    except JobsError:
        return [Finding(name="jobs", ok=True, message="Nothing runs now: `metaspo up` starts worker and scheduler.")]
    try:
        async with open_registry(settings) as registry:
            holder = await registry.lease_holder(LEASE)
            waiting = await registry.waiting_triggers()
    except RegistryError as error:
        return [Finding(name="jobs", ok=False, message=str(error), mend="Start Redis, or correct redis_url.")]
    if holder is None:
        mend = "Start `metaspo jobs scheduler` and `metaspo jobs worker`, or `metaspo up`."
        return [
            Finding(name="scheduler", ok=False, message=f"No scheduler is running; {waiting} triggers wait.", mend=mend)
        ]
    return [Finding(name="scheduler", ok=True, message=f"{holder[0]} is elected; {waiting} triggers wait.")]
