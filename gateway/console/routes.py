"""The console's routes: a page is a context rendered as HTML, or as JSON with ``?format=json``; an action is a form.

Every page needs a session, every form its token, every move an operator. Errors are pages that say what happened and
what to do; a conflict says what moved meanwhile.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Form, Query, Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles

from gateway.api.answers import encode
from gateway.api.control import Control
from gateway.api.failures import what_moved
from gateway.api.runs import follow
from gateway.console import views
from gateway.console.rendering import SECURITY_HEADERS, Renderer
from gateway.console.session import Sessions, Visitor
from registry import Budget, Conflict, NotFound, Refused, Registry, RegistryError, RegistryUnavailable, Run, Trigger

ROOT = "/console"
STATIC = StaticFiles(directory=Path(__file__).parent / "static")
Text = Annotated[str, Form(max_length=4000)]
View = Callable[[Registry, Visitor], Awaitable[views.Page]]


class Console:
    """The console of one process, standing on the same `Control` as the API."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self._sessions: Sessions | None = None
        self._render = Renderer(ROOT)

    async def sessions(self) -> Sessions:
        """The cookie's maker. The fleet's secret is asked for once. Raises RegistryUnavailable."""
        if self._sessions is None:
            registry = await self.control.registry()
            secret = await registry.secret("console")
            self._sessions = Sessions(secret, self.control.keys, lambda: secrets.token_urlsafe(16))
        return self._sessions

    async def page(self, request: Request, view: View) -> Response:
        """Show a page to a signed-in visitor."""
        try:
            visitor = (await self.sessions()).visitor(request)
            if visitor is None:
                return RedirectResponse(f"{ROOT}/sign-in?{urlencode({'next': _here(request)})}", 303)
            context = await view(await self.control.registry(), visitor)
        except RegistryError as error:
            return self.failed(request, error)
        context.said = request.query_params.get("said", "")[:300]
        if request.query_params.get("format") == "json":
            return Response(encode(context), media_type="application/json", headers=SECURITY_HEADERS)
        return self._render.page(context, visitor)

    async def act(self, request: Request, csrf: str, action: Callable[[Registry, Visitor], Awaitable[str]]) -> Response:
        """Do what a form asks for an operator; ``action`` returns where to go next, with its sentence."""
        try:
            sessions = await self.sessions()
            visitor = sessions.visitor(request)
            if visitor is None:
                return self.problem(
                    401, "Your session has ended", "Nothing was changed. Sign in again and repeat the step."
                )
            if not sessions.sent_by(visitor, csrf):
                return self.problem(
                    403,
                    "This form is not from your session",
                    "Nothing was changed. Open the page again and repeat the step there.",
                    visitor,
                )
            if not visitor.may_move:
                return self.problem(
                    403,
                    "Your key only reads",
                    "Nothing was changed. Sign in with an operator's key to change things.",
                    visitor,
                )
            return RedirectResponse(await action(await self.control.registry(), visitor), 303)
        except RegistryError as error:
            return self.failed(request, error)

    def failed(self, request: Request, error: RegistryError) -> Response:
        """A page for what the registry says."""
        visitor = self._sessions.visitor(request) if self._sessions else None
        if isinstance(error, Conflict):
            return self.problem(
                409,
                "Something moved meanwhile",
                f"Nothing was changed by you. {what_moved(error)[0]} Look at the page again and decide anew.",
                visitor,
            )
        if isinstance(error, NotFound):
            return self.problem(
                404, "Not here", f"{error} It may have been deleted; the overview shows what is there.", visitor
            )
        if isinstance(error, Refused):
            return self.problem(422, "Refused", f"Nothing was changed. {error}", visitor)
        if isinstance(error, RegistryUnavailable):
            return self.problem(
                503,
                "The registry cannot be reached",
                "Traffic is served on from the last known state. Try again in a moment; if it stays so, look at the "
                "Redis server and at `metaspo doctor`.",
                visitor,
            )
        return self.problem(
            500, "The registry holds something unreadable", f"{error} `metaspo doctor` names it.", visitor
        )

    def problem(self, status: int, title: str, text: str, visitor: Visitor | None = None) -> Response:
        """A page that says what happened and what to do."""
        return self._render.problem(status, title, text, visitor)

    def sign_in_page(self, next: str, said: str = "", status: int = 200) -> Response:
        """The form that asks for a key."""
        return self._render.sign_in(next, said, status)


def _here(request: Request) -> str:
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def _inside(next: str) -> str:
    """Only pages of ours: never a redirect to another site."""
    return next if next.startswith(ROOT) and not next.startswith("//") and "\\" not in next else ROOT


def _to(path: str, said: str) -> str:
    return f"{ROOT}{path}?{urlencode({'said': said})}"


def console_router(control: Control) -> APIRouter:
    """All routes of the console."""
    console = Console(control)
    router = APIRouter(prefix=ROOT, include_in_schema=False)
    _sign_in_routes(router, console)
    _page_routes(router, console)
    _move_routes(router, console)
    _form_routes(router, console)
    return router


def _sign_in_routes(router: APIRouter, console: Console) -> None:
    @router.get("/sign-in")
    async def sign_in_page(next: str = ROOT) -> Response:
        return console.sign_in_page(_inside(next))

    @router.post("/sign-in")
    async def sign_in(request: Request, key: Text = "", next: Text = ROOT) -> Response:
        try:
            sessions = await console.sessions()
        except RegistryError as error:
            return console.failed(request, error)
        record = sessions.sign_in(key)
        if record is None:
            return console.sign_in_page(
                _inside(next),
                "This is not a live operator's or viewer's key. `metaspo keys list` shows which exist.",
                401,
            )
        response = RedirectResponse(_inside(next), 303)
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
        return await console.page(request, lambda registry, who: views.domain_page(registry, d, may_move=who.may_move))

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

    @router.get("/runs/{id}")
    async def run(request: Request, id: str) -> Response:
        return await console.page(request, lambda registry, _: views.run_page(registry, id))

    @router.get("/runs/{id}/events")
    async def events(request: Request, id: str) -> Response:
        try:
            if (await console.sessions()).visitor(request) is None:
                return console.problem(401, "Your session has ended", "Sign in again to follow the search.")
            registry = await console.control.registry()
            await registry.get_run(id)
            seen = await registry.run_events(id)
        except RegistryError as error:
            return console.failed(request, error)
        after = request.headers.get("last-event-id", "") or (seen[-1][0] if seen else "0")
        items = follow(registry, id, after, console.control.clock)
        return StreamingResponse(_lines(items), media_type="text/event-stream", headers=SECURITY_HEADERS)

    @router.get("/jobs")
    async def jobs(request: Request) -> Response:
        return await console.page(request, lambda registry, _: views.jobs_page(registry))

    @router.get("/audit")
    async def audit(request: Request, domain: str = "") -> Response:
        return await console.page(request, lambda registry, _: views.audit_page(registry, domain))

    @router.get("/approvals")
    async def approvals(request: Request) -> Response:
        return await console.page(request, lambda registry, who: views.approvals_page(registry, may_move=who.may_move))

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
            yield b"id: " + item[0].encode() + b"\ndata: " + encode({"text": views.event_text(item[1])}) + b"\n\n"


def _move_routes(router: APIRouter, console: Console) -> None:
    @router.get("/domains/{d}/move")
    async def confirm(
        request: Request, d: str, action: str = "promote", version: int | None = None, share: float = 0.05
    ) -> Response:
        if action not in ("promote", "canary", "rollback", "abort"):
            return console.problem(
                404, "Not here", f"There is no move {action[:40]!r}: promote, canary, rollback or abort."
            )
        return await console.page(
            request,
            lambda registry, _: views.confirm_page(registry, d, action, version, share, now_s=console.control.clock()),
        )

    @router.post("/domains/{d}/move")
    async def move(
        request: Request,
        d: str,
        action: Text = "",
        version: Annotated[int | None, Form()] = None,
        share: Annotated[float, Form(ge=0, le=1)] = 0.05,
        epoch: Annotated[int | None, Form()] = None,
        why: Text = "",
        csrf: Text = "",
        once: Text = "",
    ) -> Response:
        async def go(registry: Registry, who: Visitor) -> str:
            common: dict[str, Any] = {
                "actor": who.name,
                "why": why,
                "if_epoch": epoch,
                "request_id": f"console:{who.key.id}:{once}" if once else "",
            }
            if action == "promote" and version is not None:
                await registry.promote(d, version, **common)
                said = f"Version {version} is stable: the next requests carry it."
            elif action == "canary" and version is not None:
                await registry.canary(d, version, share, **common)
                said = f"Version {version} is on canary with {share:.0%} of the units."
            elif action == "rollback":
                moved = await registry.rollback(d, **common)
                said = f"Rolled back: version {moved.stable} is stable."
            elif action == "abort":
                await registry.abort(d, **common)
                said = "The canary has ended without promotion."
            else:
                raise Refused(f"{action!r} needs a version, or is no move.")
            console.control.metrics.moved(d, action)
            return _to(f"/domains/{quote(d)}", said)

        return await console.act(request, csrf, go)


def _form_routes(router: APIRouter, console: Console) -> None:
    @router.post("/domains/{d}/optimize")
    async def optimize(request: Request, d: str, why: Text = "", csrf: Text = "", once: Text = "") -> Response:
        async def go(registry: Registry, who: Visitor) -> str:
            domain = await registry.get_domain(d)
            budget: Budget = domain.budget
            run = await registry.create_run(
                d, "metaspo", asked_by=who.name, why=why, budget=budget, request_id=f"console:{who.key.id}:{once}"
            )
            await registry.put_trigger(
                Trigger(
                    id=f"optimize-{run.id}",
                    job="optimize",
                    domain=d,
                    at=console.control.clock(),
                    by=who.name,
                    why=why,
                    args={"run": run.id, "method": "metaspo"},
                )
            )
            return _to(f"/runs/{quote(run.id)}", "The search is asked for; a worker takes it up.")

        return await console.act(request, csrf, go)

    @router.post("/approvals/{id}")
    async def decide(request: Request, id: str, decision: Text = "", why: Text = "", csrf: Text = "") -> Response:
        async def go(registry: Registry, who: Visitor) -> str:
            if decision != "approved" and decision != "rejected":  # noqa: PLR1714 - narrows the type
                raise Refused("Say approved or rejected.")
            await registry.decide_approval(id, decision, by=who.name, why=why)
            return _to("/approvals", f"{decision.capitalize()}.")

        return await console.act(request, csrf, go)

    @router.post("/samples/{id}/label")
    async def label(
        request: Request, id: str, score: Annotated[float, Form(ge=0, le=1)], back: Text = ROOT, csrf: Text = ""
    ) -> Response:
        async def go(registry: Registry, who: Visitor) -> str:
            await registry.label_sample(id, score, who.name)
            return _inside(back)

        return await console.act(request, csrf, go)

    @router.post("/keys")
    async def create_key(
        request: Request, name: Text = "", role: Text = "caller", domain: Text = "", csrf: Text = ""
    ) -> Response:
        try:
            sessions = await console.sessions()
            visitor = sessions.visitor(request)
            if visitor is None or not visitor.may_move or not sessions.sent_by(visitor, csrf):
                return console.problem(
                    403, "No key was made", "Sign in with an operator's key and use the form on the keys page.", visitor
                )
            registry = await console.control.registry()
            if (role != "caller" and role != "operator" and role != "viewer") or not name.strip():  # noqa: PLR1714 - narrows
                raise Refused("A key needs a name and a role: caller, operator or viewer.")
            if domain:
                await registry.get_domain(domain)
            _, text = await registry.create_key(name.strip(), role, domain or None)
            context = await views.keys_page(registry, may_move=True)
        except RegistryError as error:
            return console.failed(request, error)
        context.new_key = text  # shown once: on this page, and nowhere else
        return console._render.page(context, visitor)

    @router.post("/keys/{id}/revoke")
    async def revoke_key(request: Request, id: str, csrf: Text = "") -> Response:
        async def go(registry: Registry, who: Visitor) -> str:
            await registry.revoke_key(id, who.name)
            return _to("/keys", "The key is revoked: it stops working everywhere within a second.")

        return await console.act(request, csrf, go)
