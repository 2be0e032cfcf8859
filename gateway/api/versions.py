"""Versions: immutable, numbered system prompts."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from gateway.api.answers import Added, Done, VersionAnswer, VersionBrief, answer, brief, whole
from gateway.api.asks import Add, Block
from gateway.api.control import DomainName, Operator, Registry_, RequestId, VersionNumber, Viewer, scoped
from gateway.api.openapi import gives
from registry import Lineage

router = APIRouter(prefix="/api/domains/{d}/versions", tags=["versions"])


@router.get("", responses=gives(list[VersionBrief], missing=True))
async def list_versions(d: DomainName, registry: Registry_, _who: Viewer) -> Response:
    """All versions of a domain, the newest first, without their texts."""
    await registry.get_domain(d)
    versions = await registry.list_versions(d)
    return answer([brief(version) for version in sorted(versions, key=lambda version: -version.number)])


@router.post("", status_code=201, responses=gives(Added, 201, refusals=True))
async def add_version(d: DomainName, ask: Add, registry: Registry_, who: Operator, request_id: RequestId) -> Response:
    """Add a system prompt. A text that the domain has already keeps its number."""
    if ask.parent is not None:
        await registry.get_version(d, ask.parent)
    lineage = Lineage(parent=ask.parent, author=who.name, why=ask.why)
    version = await registry.add_version(d, ask.system_prompt, lineage=lineage, request_id=scoped(request_id, "add"))
    return answer(Added(version.number, version.hash), 201)


@router.get("/{n}", responses=gives(VersionAnswer, missing=True))
async def get_version(d: DomainName, n: VersionNumber, registry: Registry_, _who: Viewer) -> Response:
    """One version with its text and where it comes from."""
    return answer(whole(await registry.get_version(d, n)))


@router.post("/{n}/block", responses=gives(Done, refusals=True))
async def block_version(d: DomainName, n: VersionNumber, ask: Block, registry: Registry_, who: Operator) -> Response:
    """Forbid a version for good: it can never be promoted or put on canary again."""
    await registry.block_version(d, n, ask.why, who.name)
    return answer(Done())
