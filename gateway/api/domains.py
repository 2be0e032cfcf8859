"""Domains: the families of tasks that share a system prompt."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query
from starlette.responses import Response

from gateway.api.answers import DomainAnswer, TaskPrompt, answer, pointers
from gateway.api.asks import DomainAsk
from gateway.api.control import DomainName, Operator, Registry_, TaskName, Viewer
from gateway.api.failures import failure
from gateway.api.openapi import gives
from gateway.api.scores import scores_of
from registry import Domain, NotFound, Registry

router = APIRouter(prefix="/api/domains", tags=["domains"])


async def _described(registry: Registry, domain: Domain) -> DomainAnswer:
    deployment, scores = await asyncio.gather(registry.deployment(domain.name), scores_of(registry, domain.name))
    return DomainAnswer(domain.name, domain, pointers(deployment), scores)


@router.get("", responses=gives(list[DomainAnswer]))
async def list_domains(
    registry: Registry_,
    _who: Viewer,
    limit: Annotated[int, Query(ge=1, le=1000)] = 500,
    after: Annotated[str, Query(max_length=63, description="names after this one: for the next page")] = "",
) -> Response:
    """All domains by name, with what serves them and the scores of the versions that serve."""
    domains = [domain for domain in await registry.list_domains() if domain.name > after]
    domains = sorted(domains, key=lambda domain: domain.name)[:limit]
    return answer(await asyncio.gather(*(_described(registry, domain) for domain in domains)))


@router.get("/{d}", responses=gives(DomainAnswer, missing=True))
async def get_domain(d: DomainName, registry: Registry_, _who: Viewer) -> Response:
    """One domain."""
    return answer(await _described(registry, await registry.get_domain(d)))


@router.put("/{d}", responses=gives(DomainAnswer, 201, refusals=True))
async def put_domain(d: DomainName, ask: DomainAsk, registry: Registry_, who: Operator) -> Response:
    """Make a domain, or set it anew: fields that are left out get their defaults.

    A domain that the config file names is read-only here: 409.
    """
    try:
        known: Domain | None = await registry.get_domain(d)
    except NotFound:
        known = None
    if known is not None and known.read_only:
        raise failure(
            409,
            f"'{d}' stands in the config file, which wins at every start: change it there.",
            type="conflict",
            code="read_only",
        )
    wanted = ask.model_dump(by_alias=True)
    wanted["budget"] = {key: value for key, value in wanted["budget"].items() if value is not None}
    domain = msgspec.convert({**wanted, "name": d}, Domain)
    await registry.put_domain(domain, actor=who.name)
    return answer(await _described(registry, domain), 200 if known else 201)


@router.get("/{d}/tasks/{t}/prompt", responses=gives(TaskPrompt, missing=True), tags=["tasks"])
async def task_prompt(d: DomainName, t: TaskName, registry: Registry_, _who: Viewer) -> Response:
    """A task's user prompt: the one that a search adapted to the current system prompt, else the domain's own."""
    task = (await registry.get_domain(d)).tasks.get(t)
    if task is None:
        raise failure(404, f"The domain '{d}' has no task '{t[:80]}'.", code="not_found")
    return answer(TaskPrompt(d, t, task.adapted_prompt or task.user_prompt, bool(task.adapted_prompt)))
