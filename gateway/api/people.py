"""What waits for a person, who may use the gateway, and what runs by itself."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Query
from starlette.responses import Response

from gateway.api.answers import Done, KeyAnswer, answer
from gateway.api.asks import CreateKey, Decide
from gateway.api.control import Id, Operator, Registry_, Viewer
from gateway.api.openapi import gives
from registry import Approval, KeyRecord, Run

router = APIRouter()


@router.get("/api/approvals", responses=gives(list[Approval]), tags=["approvals"])
async def list_approvals(
    registry: Registry_,
    _who: Viewer,
    state: Annotated[Literal["waiting", "decided", "all"], Query()] = "waiting",
) -> Response:
    """What waits for a person's word, the oldest first."""
    approvals = sorted(await registry.list_approvals(), key=lambda approval: approval.asked_at)
    if state != "all":
        approvals = [approval for approval in approvals if bool(approval.decision) == (state == "decided")]
    return answer(approvals)


@router.post("/api/approvals/{id}", responses=gives(Approval, refusals=True), tags=["approvals"])
async def decide(id: Id, ask: Decide, registry: Registry_, who: Operator) -> Response:
    """Approve or reject. What was approved is moved by the jobs worker; a second, other word is a conflict."""
    return answer(await registry.decide_approval(id, ask.decision, by=who.name, why=ask.why))


def described(key: KeyRecord, text: str | None = None) -> KeyAnswer:
    """A key without its hash."""
    fields = {field: getattr(key, field) for field in KeyAnswer.__struct_fields__ if field != "key"}
    return KeyAnswer(**fields, key=text)


@router.get("/api/keys", responses=gives(list[KeyAnswer]), tags=["keys"])
async def list_keys(registry: Registry_, _who: Viewer) -> Response:
    """All keys, also revoked ones. Texts and hashes are never shown."""
    keys = sorted(await registry.list_keys(), key=lambda key: (key.name, key.created_at))
    return answer([described(key) for key in keys])


@router.post("/api/keys", status_code=201, responses=gives(KeyAnswer, 201, refusals=True), tags=["keys"])
async def create_key(ask: CreateKey, registry: Registry_, _who: Operator) -> Response:
    """Make a key. Its text is in this answer and nowhere else."""
    limits = ask.model_dump(exclude={"name", "role", "domain"}, exclude_none=True)
    if ask.domain is not None:
        await registry.get_domain(ask.domain)
    key, text = await registry.create_key(ask.name, ask.role, ask.domain, **limits)
    return answer(described(key, text), 201)


@router.delete("/api/keys/{id}", responses=gives(Done, refusals=True), tags=["keys"])
async def revoke_key(id: Id, registry: Registry_, who: Operator) -> Response:
    """Revoke a key: it stops working everywhere within a second. Keys of the config file are revoked there."""
    await registry.revoke_key(id, who.name)
    return answer(Done())


class Jobs(msgspec.Struct):
    """What runs by itself, as far as the registry knows: triggers that no worker has taken, and searches alive."""

    waiting: int
    runs: list[Run]


@router.get("/api/jobs", responses=gives(Jobs), tags=["jobs"])
async def jobs(registry: Registry_, _who: Viewer) -> Response:
    """Wishes that wait for a worker, and searches that are queued or running. `metaspo jobs list` has the schedule."""
    alive = [run for run in await registry.list_runs() if run.state in {"queued", "running"}]
    return answer(Jobs(await registry.waiting_triggers(), alive))
