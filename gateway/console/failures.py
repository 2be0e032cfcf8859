"""What goes wrong before a page is reached is a page, too: a path that is none, a word where a number stands, a form of
megabytes. Who sits at the console never sees an API's error.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.control import Control
from gateway.console.console import ROOT, Console

TITLES = {404: "Not here", 405: "Not here", 413: "Too long", 500: "The gateway made a mistake"}
Handler = Callable[[Request, Any], Awaitable[Response]]


def install_pages(app: FastAPI, control: Control) -> None:
    """Make the errors of the console's paths pages; everywhere else they stay what they are."""
    console = Console(control)
    for kind in (HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _page_of(console, app.exception_handlers[kind]))  # type: ignore[arg-type]


def _page_of(console: Console, otherwise: Handler) -> Handler:
    async def handle(request: Request, error: Any) -> Response:
        answer = await otherwise(request, error)
        path = request.url.path
        asked_json = request.query_params.get("format") == "json" or path.endswith("/events")
        if not (path == ROOT or path.startswith(f"{ROOT}/")) or path.startswith(f"{ROOT}/static/") or asked_json:
            return answer
        said = msgspec.json.decode(bytes(answer.body))["error"]["message"]
        title = TITLES.get(answer.status_code, "This cannot be taken")
        return await console.refused(request, answer.status_code, title, said)

    return handle
