"""What was kept: scrubbed samples, score series, the audit of the pointers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from gateway.api.answers import Score, answer
from gateway.api.asks import Label
from gateway.api.control import DomainName, Id, Operator, Registry_, Viewer
from gateway.api.openapi import gives
from gateway.api.scores import scores_of
from registry import AuditEntry, Sample

router = APIRouter(tags=["samples"])

Time = Annotated[float, Query(ge=0, le=1e11, allow_inf_nan=False, description="seconds since the epoch")]


@router.get("/api/domains/{d}/samples", responses=gives(list[Sample], missing=True))
async def list_samples(
    d: DomainName,
    registry: Registry_,
    _who: Viewer,
    task: Annotated[str | None, Query(max_length=128, description="of this task only")] = None,
    version: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="served by this version only")] = None,
    since: Time | None = None,
    unscored_only: Annotated[bool, Query(description="without a score yet")] = False,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """Exchanges that were kept, scrubbed, the newest first."""
    await registry.get_domain(d)
    samples = await registry.samples(
        d, task=task, version=version, since=since, unscored_only=unscored_only, limit=limit
    )
    return answer(sorted(samples, key=lambda sample: -sample.at))


@router.post("/api/samples/{id}/label", responses=gives(Sample, refusals=True))
async def label(id: Id, ask: Label, registry: Registry_, who: Operator) -> Response:
    """A person's score of a sample: what the judge is calibrated against."""
    return answer(await registry.label_sample(id, ask.score, who.name))


@router.get("/api/domains/{d}/scores", responses=gives(list[Score], missing=True))
async def scores(d: DomainName, registry: Registry_, _who: Viewer) -> Response:
    """What was counted and scored of each version in each arm, with the interval of the mean score."""
    await registry.get_domain(d)
    return answer(await scores_of(registry, d))


@router.get("/api/domains/{d}/audit", responses=gives(list[AuditEntry], missing=True), tags=["audit"])
async def audit(
    d: DomainName,
    registry: Registry_,
    _who: Viewer,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Annotated[
        int | None, Query(ge=1, le=2**53, description="entries older than this seq: the next page")
    ] = None,
) -> Response:
    """Who moved which pointer, when and why, the newest first."""
    await registry.get_domain(d)
    return answer(await registry.history(d, limit, before))
