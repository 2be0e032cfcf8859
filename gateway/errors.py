"""What can go wrong at the door.

    GatewayError
      +-- RequestRefused        a reply of ours in the caller's error shape (carries a Refusal)
      |     +-- BadRequest      400: what was sent cannot be understood
      +-- UpstreamFailed        no (whole) answer from an upstream
      |     +-- ConnectFailed   nothing was sent: safe to ask elsewhere
      |     +-- UpstreamTimeout connect | first_token | between_chunks | total
      |     +-- UpstreamBroken  cut or not HTTP
      +-- CallerGone            the caller hung up; there is nobody to answer
      +-- StartFailed           the gateway cannot start; one sentence that says what to do

Foreign errors become these at two edges: ``upstream.py`` (sockets, TLS, HTTP parsing) and ``translate.py`` (LiteLLM).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from gateway.exchange import Dialect, Refusal

TimeoutPhase = Literal["connect", "first_token", "between_chunks", "total"]


class GatewayError(Exception):
    """Base of everything this package raises on purpose."""


class RequestRefused(GatewayError):
    """The request gets an error reply from the gateway itself."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class BadRequest(RequestRefused):
    """400: what was sent cannot be understood."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(Refusal(status=400, message=message, param=param, code=code))


class UpstreamFailed(GatewayError):
    """No (whole) answer from an upstream.

    ``status`` is what the caller sees when nothing was sent yet; ``started`` tells whether any byte of a reply had
    come.
    """

    status = 502
    code = "upstream_error"

    def __init__(self, message: str, *, started: bool = False) -> None:
        super().__init__(message)
        self.started = started


class ConnectFailed(UpstreamFailed):
    """No connection: nothing was sent, so that another target may be asked."""

    code = "upstream_unreachable"


class UpstreamTimeout(UpstreamFailed):
    """The upstream was too slow in one phase."""

    status = 504
    code = "upstream_timeout"

    def __init__(self, phase: TimeoutPhase, seconds: float, *, started: bool = False) -> None:
        super().__init__(
            f"The upstream did not answer in time ({phase.replace('_', ' ')}: {seconds:g} s).", started=started
        )
        self.phase = phase


class UpstreamBroken(UpstreamFailed):
    """The connection was cut, or what came was not HTTP."""


class CallerGone(GatewayError):
    """The caller hung up."""


class StartFailed(GatewayError):
    """The gateway cannot start: one clear sentence."""


class _OpenAIError(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class _OpenAIBody(msgspec.Struct):
    error: _OpenAIError


class _AnthropicError(msgspec.Struct):
    type: str
    message: str


class _AnthropicBody(msgspec.Struct):
    type: str
    error: _AnthropicError


_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}

_encode = msgspec.json.Encoder().encode


def error_body(dialect: Dialect, refusal: Refusal) -> bytes:
    """The refusal as JSON in the dialect's own shape (OpenAI: all four keys; Anthropic: type by status)."""
    if dialect == "messages":
        kind = _ANTHROPIC_TYPES.get(refusal.status) or (
            "api_error" if refusal.status >= 500 else "invalid_request_error"
        )
        return _encode(_AnthropicBody("error", _AnthropicError(kind, refusal.message)))
    return _encode(_OpenAIBody(_OpenAIError(refusal.message, refusal.type, refusal.param, refusal.code)))


def error_event(dialect: Dialect, refusal: Refusal) -> bytes:
    """The refusal as a server-sent event: how a stream that has begun says that it failed. No ``[DONE]`` follows."""
    body = error_body(dialect, refusal)
    if dialect == "messages":
        return b"event: error\ndata: " + body + b"\n\n"
    return b"data: " + body + b"\n\n"


def upstream_refusal(failure: UpstreamFailed) -> Refusal:
    """What the caller is told when no upstream answered. Never the upstream's address."""
    return Refusal(status=failure.status, message=str(failure), type="server_error", code=failure.code)
