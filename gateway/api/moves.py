"""The pointers of a domain, and the four ways to move them. Every move is compare-and-set, audited, and idempotent."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from gateway.api.answers import Pointers, answer, pointers
from gateway.api.asks import Canary, Move, Promote
from gateway.api.control import Control_, DomainName, Operator, Registry_, RequestId, Viewer, scoped
from gateway.api.openapi import gives

router = APIRouter(prefix="/api/domains/{d}", tags=["deployment"])


@router.get("/deployment", responses=gives(Pointers, missing=True))
async def deployment(d: DomainName, registry: Registry_, _who: Viewer) -> Response:
    """Which version serves whom. ``epoch`` grows by one with each move: send it back as ``if_epoch``."""
    return answer(pointers(await registry.deployment(d)))


@router.post("/promote", responses=gives(Pointers, refusals=True))
async def promote(
    d: DomainName, ask: Promote, registry: Registry_, who: Operator, control: Control_, request_id: RequestId
) -> Response:
    """Make a version stable: the next requests carry it. 409 when ``if_epoch`` is stale, with what moved."""
    moved = await registry.promote(
        d, ask.version, actor=who.name, why=ask.why, if_epoch=ask.if_epoch, request_id=scoped(request_id, "promote")
    )
    control.metrics.moved(d, "promote")
    return answer(pointers(moved))


@router.post("/canary", responses=gives(Pointers, refusals=True))
async def canary(
    d: DomainName, ask: Canary, registry: Registry_, who: Operator, control: Control_, request_id: RequestId
) -> Response:
    """Give a version a share of the units, or change the share of the canary that runs."""
    moved = await registry.canary(
        d,
        ask.version,
        ask.share,
        actor=who.name,
        why=ask.why,
        if_epoch=ask.if_epoch,
        request_id=scoped(request_id, "canary"),
    )
    control.metrics.moved(d, "canary")
    return answer(pointers(moved))


@router.post("/rollback", responses=gives(Pointers, refusals=True))
async def rollback(
    d: DomainName, ask: Move, registry: Registry_, who: Operator, control: Control_, request_id: RequestId
) -> Response:
    """Stable returns to previous, at once."""
    moved = await registry.rollback(
        d, actor=who.name, why=ask.why, if_epoch=ask.if_epoch, request_id=scoped(request_id, "rollback")
    )
    control.metrics.moved(d, "rollback")
    return answer(pointers(moved))


@router.post("/abort", responses=gives(Pointers, refusals=True))
async def abort(
    d: DomainName, ask: Move, registry: Registry_, who: Operator, control: Control_, request_id: RequestId
) -> Response:
    """The canary ends without promotion."""
    moved = await registry.abort(
        d, actor=who.name, why=ask.why, if_epoch=ask.if_epoch, request_id=scoped(request_id, "abort")
    )
    control.metrics.moved(d, "abort")
    return answer(pointers(moved))
