"""Every error of the control plane in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``.

Never the framework's own, also for wrong methods, unknown paths, invalid bodies and faults of ours. The registry's
errors become statuses here, and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.answers import encode
from gateway.exchange import Refusal
from registry import AuditEntry, Conflict, Deployment, NotFound, Refused, RegistryError, RegistryUnavailable, Run

log = logging.getLogger(__name__)

MAX_BODY = 4 << 20
DROPPED = 64 << 20
DROPPING = 5.0
"""Seconds that a reply waits for the rest of a body."""


class Failure(Exception):
    """An answer that is an error. ``extra`` stands beside ``error`` in the body: what a program needs to go on."""

    def __init__(self, refusal: Refusal, extra: Mapping[str, Any] | None = None) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
        self.extra = dict(extra or {})


def failure(
    status: int,
    message: str,
    *,
    type: str = "invalid_request_error",
    param: str | None = None,
    code: str | None = None,
) -> Failure:
    """A `Failure` in one line."""
    return Failure(Refusal(status, message, type=type, param=param, code=code))


def as_response(refusal: Refusal, extra: Mapping[str, Any] | None = None) -> Response:
    """The refusal as a response."""
    body = {
        "error": {
            "message": refusal.message,
            "type": refusal.type,
            "param": refusal.param,
            "code": refusal.code,
        },
        **(extra or {}),
    }
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in refusal.headers}
    if refusal.retry_after is not None:
        headers["retry-after"] = str(max(1, round(refusal.retry_after)))
    return Response(encode(body), refusal.status, headers, "application/json")


def what_moved(conflict: Conflict) -> tuple[str, dict[str, Any]]:
    """A sentence that says what moved, and the state to decide again from."""
    current, moved = conflict.current, conflict.moved
    message = str(conflict)
    extra: dict[str, Any] = {}
    if isinstance(current, Deployment):
        extra["deployment"] = current
        if str(current.epoch) not in message:
            message += f" The epoch is {current.epoch} now, stable {current.stable}, canary {current.canary}."
    elif isinstance(current, Run):
        extra["run"] = current.id
    elif current is not None:
        extra["current"] = current
    if isinstance(moved, AuditEntry):
        extra["moved"] = {"kind": moved.kind, "actor": moved.actor, "at": moved.at, "why": moved.why}
        if moved.actor not in message:
            message += f" Moved by {moved.actor} ({moved.kind}): {moved.why or 'no reason given'}."
    return message, extra


def _registry_error(error: RegistryError) -> Response:
    if isinstance(error, Conflict):
        message, extra = what_moved(error)
        return as_response(Refusal(409, message, type="conflict", code="conflict"), extra)
    if isinstance(error, NotFound):
        return as_response(Refusal(404, str(error), code="not_found"))
    if isinstance(error, Refused):
        return as_response(Refusal(422, str(error), code="refused"))
    if isinstance(error, RegistryUnavailable):
        return as_response(
            Refusal(503, f"{error} Traffic is served on; try this again in a moment.", type="server_error",
                    code="registry_unavailable", retry_after=2)
        )  # fmt: skip
    log.error("registry: %s", type(error).__name__)
    return as_response(Refusal(500, str(error), type="server_error", code="registry_corrupt"))


class BodyLimit:
    """Refuses bodies above ``most`` bytes while they come in: the framework reads them before it asks for a key.

    A reply to a body that is still under way waits until the rest has come and was dropped, up to ``DROPPED`` bytes: to
    close a connection with unread bytes resets it, and the caller would not see the reply.
    """

    def __init__(self, app: ASGIApp, most: int = MAX_BODY) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen, more = 0, False

        async def counted() -> Message:
            nonlocal seen, more
            message = await receive()
            seen += len(message.get("body", b""))
            more = message.get("more_body", False)
            return message

        async def bounded() -> Message:
            message = await counted()
            if seen > self._most:
                raise HTTPException(413, f"The control plane takes bodies up to {self._most // 2**20} MiB.")
            return message

        async def after_the_body(message: Message) -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DROPPING):
                    while more and seen < DROPPED:
                        await counted()
            await send(message)

        await self._app(scope, bounded, after_the_body)


_SENTENCES = {404: "There is no such route: {path}.", 405: "{method} is not allowed on {path}."}
_UNREADABLE = "There was an error parsing the body"
"""What the framework says of a body that ends early, is too long or is no form."""


def _http_error(request: Request, error: HTTPException) -> Response:
    template = _SENTENCES.get(error.status_code)
    message = template.format(path=request.url.path, method=request.method) if template else str(error.detail)
    if message == _UNREADABLE:
        message = f"The body cannot be read: it is longer than {MAX_BODY // 2**20} MiB, or not what its type says."
    headers = tuple((k.lower().encode(), v.encode()) for k, v in (error.headers or {}).items())
    code = {404: "unknown_url", 405: "method_not_allowed", 413: "request_too_large"}.get(error.status_code)
    return as_response(Refusal(error.status_code, message, code=code, headers=headers))


def _invalid(error: RequestValidationError) -> Response:
    first = error.errors()[0]
    where = [str(part) for part in first.get("loc", ()) if part not in {"body", "query", "path", "header"}]
    if first.get("type") == "json_invalid":
        return as_response(Refusal(400, "The body is not valid JSON."))
    param = ".".join(where) or None
    said = str(first.get("msg", "is not valid")).removeprefix("Value error, ")
    message = f"'{param}': {said}." if param else f"The body cannot be taken: {said}."
    return as_response(Refusal(400, message.encode("utf-8", "replace").decode(), param=param, code="invalid_value"))


def install(app: FastAPI) -> None:
    """Make every error of this application one of ours."""
    app.add_middleware(BodyLimit)

    @app.exception_handler(Failure)
    async def on_failure(_request: Request, error: Failure) -> Response:
        return as_response(error.refusal, error.extra)

    @app.exception_handler(RegistryError)
    async def on_registry_error(_request: Request, error: RegistryError) -> Response:
        return _registry_error(error)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        return _http_error(request, error)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_request: Request, error: RequestValidationError) -> Response:
        return _invalid(error)

    @app.exception_handler(Exception)
    async def on_fault(request: Request, error: Exception) -> Response:
        log.error("fault in %s %s", request.method, request.url.path, exc_info=error)
        return as_response(
            Refusal(500, "The gateway made a mistake; its log says which.", type="server_error", code="internal_error")
        )


class ErrorDetail(msgspec.Struct):
    """What went wrong, in OpenAI's words."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(msgspec.Struct):
    """Every error of the gateway."""

    error: ErrorDetail
