"""The console of one process: shows a page to whoever is signed in, does what a form asks, and says what went wrong.

Every page needs a session, every form its token, every move an operator. A conflict says what moved meanwhile.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from urllib.parse import urlencode

from fastapi import Request
from starlette.responses import RedirectResponse, Response

from gateway.api.answers import encode
from gateway.api.control import Control
from gateway.api.failures import what_moved
from gateway.console.contexts import Page
from gateway.console.rendering import SECURITY_HEADERS, Renderer
from gateway.console.session import Sessions, Visitor
from registry import Conflict, NotFound, Refused, Registry, RegistryError, RegistryUnavailable

ROOT = "/console"
View = Callable[[Registry, Visitor], Awaitable[Page]]
Action = Callable[[Registry, Visitor], Awaitable[tuple[str, str]]]
"""Does it; returns the path to go to next, and what to say there."""


class Console:
    """The console of one process, standing on the same `Control` as the API."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self._sessions: Sessions | None = None
        self.render = Renderer(ROOT)

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
        context.said = (await self.sessions()).unsealed(visitor, request.query_params.get("said", ""))
        if request.query_params.get("format") == "json":
            return Response(encode(context), media_type="application/json", headers=SECURITY_HEADERS)
        return self.render.page(context, visitor)

    async def act(self, request: Request, csrf: str, action: Action) -> Response:
        """Do what a form asks for an operator."""
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
            place, said = await action(await self.control.registry(), visitor)
            sealed = f"?{urlencode({'said': sessions.sealed(visitor, said)})}" if said else ""
            return RedirectResponse(place + sealed, 303)
        except RegistryError as error:
            return self.failed(request, error)

    async def refused(self, request: Request, status: int, title: str, text: str) -> Response:
        """A page for a request that no route takes."""
        try:
            visitor = (await self.sessions()).visitor(request)
        except RegistryError:
            visitor = None
        return self.problem(status, title, text, visitor)

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
        return self.render.problem(status, title, text, visitor)

    def sign_in_page(self, next: str, said: str = "", status: int = 200) -> Response:
        """The form that asks for a key."""
        return self.render.sign_in(next, said, status)


def _here(request: Request) -> str:
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def inside(next: str) -> str:
    """Only pages of ours: never a redirect to another site."""
    return next if next.startswith(ROOT) and not next.startswith("//") and "\\" not in next else ROOT


def to(path: str, said: str) -> tuple[str, str]:
    """Where to go next, and what to say there."""
    return ROOT + path, said
