"""The console's pages, and the way in and out."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles

from gateway.api.answers import encode
from gateway.api.control import Control
from gateway.api.runs import follow
from gateway.console import changes, searches, views
from gateway.console.console import ROOT, Console, inside
from gateway.console.forms import Text, form_routes, move_routes
from gateway.console.rendering import SECURITY_HEADERS
from registry import RegistryError, Run

EVENT_ID = re.compile(r"[0-9]{1,20}(-[0-9]{1,20})?")
STATIC = StaticFiles(directory=Path(__file__).parent / "static")


def console_router(control: Control) -> APIRouter:
    """All routes of the console."""
    console = Console(control)
    router = APIRouter(prefix=ROOT, include_in_schema=False)
    _sign_in_routes(router, console)
    _page_routes(router, console)
    move_routes(router, console)
    form_routes(router, console)
    return router


def _sign_in_routes(router: APIRouter, console: Console) -> None:
    @router.get("/sign-in")
    async def sign_in_page(next: str = ROOT) -> Response:
        return console.sign_in_page(inside(next))

    @router.post("/sign-in")
    async def sign_in(request: Request, key: Text = "", next: Text = ROOT) -> Response:
        try:
            sessions = await console.sessions()
        except RegistryError as error:
            return console.failed(request, error)
        record = sessions.sign_in(key)
        if record is None:
            return console.sign_in_page(
                inside(next),
                "This is not a live operator's or viewer's key. `metaspo keys list` shows which exist.",
                401,
            )
        response = RedirectResponse(inside(next), 303)
        sessions.remember(response, record, secure=request.url.scheme == "https", path=ROOT)
        return response

    @router.post("/sign-out")
    async def sign_out(request: Request, csrf: Text = "") -> Response:
        try:
            sessions = await console.sessions()
        except RegistryError as error:
            return console.failed(request, error)
        visitor = sessions.visitor(request)
        if visitor is not None and not sessions.sent_by(visitor, csrf):
            return console.problem(403, "This form is not from your session", "You are still signed in.", visitor)
        response = RedirectResponse(f"{ROOT}/sign-in", 303)
        sessions.forget(response, path=ROOT)
        return response


def _page_routes(router: APIRouter, console: Console) -> None:
    @router.get("")
    async def overview(request: Request, q: str = "", page: Annotated[int, Query(ge=1)] = 1) -> Response:
        return await console.page(request, lambda registry, _: views.overview(registry, query=q[:63], page=page))

    @router.get("/domains/{d}")
    async def domain(request: Request, d: str) -> Response:
        return await console.page(
            request,
            lambda registry, who: views.domain_page(registry, d, may_move=who.may_move, now_s=console.control.clock()),
        )

    @router.get("/domains/{d}/versions/{n}")
    async def version(request: Request, d: str, n: int, against: int | None = None) -> Response:
        return await console.page(
            request, lambda registry, who: views.version_page(registry, d, n, against, may_move=who.may_move)
        )

    @router.get("/domains/{d}/samples")
    async def samples(request: Request, d: str, task: str = "", band: str = "") -> Response:
        return await console.page(
            request,
            lambda registry, who: views.samples_page(registry, d, task=task, band=band, may_move=who.may_move),
        )

    @router.get("/domains/{d}/reports")
    async def reports(request: Request, d: str, n: int | None = None) -> Response:
        return await console.page(request, lambda registry, _: views.report_page(registry, d, n))

    @router.get("/runs/{id}")
    async def run(request: Request, id: str) -> Response:
        return await console.page(request, lambda registry, _: searches.run_page(registry, id))

    @router.get("/runs/{id}/events")
    async def events(request: Request, id: str, after: str = "0") -> Response:
        try:
            if (await console.sessions()).visitor(request) is None:
                return console.problem(401, "Your session has ended", "Sign in again to follow the search.")
            registry = await console.control.registry()
            await registry.get_run(id)
        except RegistryError as error:
            return console.failed(request, error)
        # a browser that reconnects says what it saw last; at first the page says it: nothing falls between
        seen = request.headers.get("last-event-id", "") or after
        items = follow(registry, id, seen if EVENT_ID.fullmatch(seen) else "0", console.control.clock)
        return StreamingResponse(_lines(items), media_type="text/event-stream", headers=SECURITY_HEADERS)

    @router.get("/jobs")
    async def jobs(request: Request, page: Annotated[int, Query(ge=1)] = 1) -> Response:
        return await console.page(request, lambda registry, _: views.jobs_page(registry, page=page))

    @router.get("/audit")
    async def audit(request: Request, domain: str = "") -> Response:
        return await console.page(request, lambda registry, _: views.audit_page(registry, domain))

    @router.get("/approvals")
    async def approvals(request: Request) -> Response:
        return await console.page(
            request,
            lambda registry, who: changes.approvals_page(
                registry, may_move=who.may_move, now_s=console.control.clock()
            ),
        )

    @router.get("/keys")
    async def keys(request: Request) -> Response:
        return await console.page(request, lambda registry, who: views.keys_page(registry, may_move=who.may_move))

    @router.get("/health")
    async def health(request: Request) -> Response:
        return await console.page(request, lambda registry, _: views.health_page(registry, console.control.readiness()))


async def _lines(items: AsyncIterator[tuple[str, dict[str, Any]] | Run | None]) -> AsyncIterator[bytes]:
    """What the page's script reads: each event as one line of text, and the end."""
    async for item in items:
        if item is None:
            yield b": waiting\n\n"
        elif isinstance(item, Run):
            yield b'data: {"ended": true}\n\n'
        else:
            spent, budget = searches.spending([item[1]])
            line = {
                "kind": item[1].get("kind", ""),
                "text": searches.event_text(item[1]),
                "spent": spent,
                "budget": budget,
            }
            yield b"id: " + item[0].encode() + b"\ndata: " + encode(line) + b"\n\n"
