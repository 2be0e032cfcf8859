"""What belongs to neither plane alone: feedback, health, metrics, and the description of it all."""

from __future__ import annotations

import asyncio
from html import escape
from typing import Any

import msgspec
from fastapi import APIRouter, FastAPI, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from gateway.api.answers import answer
from gateway.api.control import Caller, Control_, Registry_, presented
from gateway.api.failures import Failure, as_response, failure
from gateway.api.openapi import describe, gives
from gateway.exchange import Refusal
from gateway.feedback import BadExchangeId, BadFeedback, read_feedback, vote

router = APIRouter()

MAX_FEEDBACK = 256 * 1024


class Taken(msgspec.Struct):
    """The feedback was taken. ``joined`` is false when the exchange was not kept as a sample: it still counts."""

    exchange: str
    joined: bool


class Health(msgspec.Struct):
    """Whether this process lives, or is ready to serve."""

    status: str
    snapshot_age: float | None = None
    registry: str | None = None
    reason: str = ""


_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/FeedbackBody"}}},
    }
}


@router.post(
    "/v1/feedback",
    status_code=202,
    responses=gives(Taken, 202, missing=True),
    openapi_extra=_BODY,
    tags=["data plane"],
)
@router.post("/feedback", status_code=202, include_in_schema=False)
async def feedback(request: Request, who: Caller, control: Control_, registry: Registry_) -> Response:
    """Say how good an answer was, now or later: a score, a thumb, or the answer that would have been right.

    The exchange is named by the signed id that came in ``x-metaspo-exchange``. A second vote replaces the first.
    """
    try:
        said = read_feedback(await _bounded(request))
    except BadFeedback as error:
        raise Failure(error.refusal) from error
    ids = control.ids()
    if ids is None:
        raise failure(503, "Exchange ids cannot be checked yet: try again in a moment.", type="server_error",
                      code="registry_unavailable")  # fmt: skip
    try:
        claim = ids.read(said.exchange, who)
    except BadExchangeId as error:
        raise Failure(error.refusal) from error
    record = await asyncio.to_thread(vote, said, claim, control.clock())
    joined = await registry.add_feedback(record)
    kind = "reference" if record.reference is not None else "score" if record.score is not None else "comment"
    control.metrics.feedback(record.domain, kind)
    return answer(Taken(claim.exchange, joined), 202)


async def _bounded(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FEEDBACK:
            raise failure(413, f"Feedback may have {MAX_FEEDBACK // 1024} KiB.", code="request_too_large")
    return bytes(body)


@router.get("/healthz", responses={200: gives(Health)[200]}, tags=["health"])
@router.head("/healthz", include_in_schema=False)
async def healthz() -> Response:
    """This process lives."""
    return answer(Health("ok"))


@router.get(
    "/readyz", responses={200: gives(Health)[200], 503: {"description": "Nothing to serve from yet"}}, tags=["health"]
)
@router.head("/readyz", include_in_schema=False)
async def readyz(control: Control_) -> Response:
    """This process can serve: it has a snapshot, from the registry or from its file. A registry that is down is not
    unready: traffic is served from the last known good."""
    state = control.readiness()
    body = Health(
        "ok" if state.ready else "starting",
        state.snapshot_age,
        "up" if state.registry_up else "down",
        state.reason,
    )
    return answer(body, 200 if state.ready else 503)


@router.get(
    "/metrics",
    responses={
        200: {"description": "Prometheus' text format", "content": {"text/plain": {"schema": {"type": "string"}}}}
    },
    tags=["health"],
)
@router.head("/metrics", include_in_schema=False)
async def metrics(request: Request, control: Control_) -> Response:
    """The numbers of all workers of this machine, for Prometheus."""
    if control.metrics_key:
        authorization, x_api_key = request.headers.get("authorization"), request.headers.get("x-api-key")
        scheme, _, token = (authorization or "").partition(" ")
        key = control.keys.operator(
            token.strip().encode("latin-1", "replace") if scheme.lower() == "bearer" else presented(None, x_api_key)
        )
        if key is None:
            return as_response(
                Refusal(401, "The metrics need an operator's or a viewer's key.", type="authentication_error",
                        code="invalid_api_key")
            )  # fmt: skip
    body, content_type = await asyncio.to_thread(control.metrics.render, request.headers.get("accept", ""))
    return Response(body, media_type=None, headers={"content-type": content_type})


def document(app: FastAPI) -> None:
    """Serve the description of both planes: as JSON, and as a page that needs no script and no other host."""

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> JSONResponse:
        return JSONResponse(describe(app))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(
            page(describe(app)), headers={"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}
        )


_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
code, pre { font: 14px/1.45 ui-monospace, monospace } pre { overflow-x: auto; padding: .75rem; border: 1px solid #8884 }
article { border-top: 1px solid #8884; padding: .5rem 0 } h3 { margin: .3rem 0; font-size: 1rem } b { color: #06c }
@media (prefers-color-scheme: dark) { b { color: #6bf } }
"""


def page(document: dict[str, Any]) -> str:
    """The OpenAPI document as one HTML page."""
    by_tag: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            fields = ", ".join(escape(p["name"]) for p in operation.get("parameters", ()))
            answers = ", ".join(sorted(map(str, operation.get("responses", {}))))
            text = escape(operation.get("description") or operation.get("summary") or "")
            by_tag.setdefault((operation.get("tags") or ["other"])[0], []).append(
                f"<article><h3><b>{method.upper()}</b> <code>{escape(path)}</code></h3><p>{text}</p>"
                f"<p>{'Parameters: ' + fields + '. ' if fields else ''}Answers: {answers}.</p></article>"
            )
    schemas = msgspec.json.format(msgspec.json.encode(document["components"]["schemas"]), indent=2).decode()
    sections = "".join(f"<h2>{escape(tag)}</h2>{''.join(parts)}" for tag, parts in by_tag.items())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(document['info']['title'])}</title><style>{_STYLE}</style>"
        f"<h1>{escape(document['info']['title'])}</h1><p>{escape(document['info'].get('description', ''))}</p>"
        f'<p>The same for programs: <a href="/openapi.json">openapi.json</a>.</p>{sections}'
        f"<h2>Schemas</h2><pre>{escape(schemas)}</pre></html>"
    )
