"""What the upstream really said when it failed.

The SDK wraps an upstream's error in one of its own, with its prefixes in the message, the retry headers moved or
lost and the status sometimes changed (529 becomes 500). The first error in the chain still has the upstream's
response: status, headers and body are taken from there and put into the caller's shape.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from gateway.errors import ConnectFailed, UpstreamBroken, UpstreamFailed, UpstreamTimeout, error_body
from gateway.exchange import Dialect, Headers, Refusal

_PREFIX = re.compile(r"^(?:(?:litellm\.)?\w*(?:Error|Exception)\s*(?::|-)\s*)+")
log = logging.getLogger(__name__)

_KEPT = ("retry-after", "retry-after-ms", "x-should-retry", "request-id", "x-request-id")
_KEPT_PREFIXES = ("x-ratelimit-", "anthropic-ratelimit-", "openai-")
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class UpstreamSaid(msgspec.Struct, frozen=True):
    """An upstream's error: its status, its words, and the headers that a caller needs to come back."""

    refusal: Refusal
    headers: Headers

    def reply(self, dialect: Dialect) -> tuple[int, Headers, bytes]:
        """Status, headers and body in the caller's dialect."""
        headers = ((b"content-type", b"application/json"), *self.headers)
        return self.refusal.status, headers, error_body(dialect, self.refusal)


def kept_headers(headers: Mapping[str, str]) -> Headers:
    """The upstream's headers that pass: request id, rate limits, when to retry."""
    return [
        (name.lower().encode("latin-1", "replace"), str(value).encode("latin-1", "replace"))
        for name, value in headers.items()
        if name.lower() in _KEPT or name.lower().startswith(_KEPT_PREFIXES)
    ]


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and everything it was raised from, the outermost first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def explain(error: Exception, *, started: bool, seconds: float) -> UpstreamSaid | UpstreamFailed:
    """What became of a call: an answer of the upstream's that is an error, or none at all.

    ``started``: part of a reply has come. ``seconds``: the time limit that the call had.
    """
    links = list(chain(error))
    said = _said(links)
    if said is not None and not started:
        return said
    if started:
        message = said.refusal.message if said is not None else _innermost_message(links)
        return UpstreamBroken(
            f"The upstream broke off its reply: {message}" if message else "The reply was cut.", started=True
        )
    names = {type(link).__name__ for link in links}
    if names & {"Timeout", "ReadTimeout", "APITimeoutError", "SocketTimeoutError", "ServerTimeoutError"}:
        return UpstreamTimeout("total", seconds)
    if names & {"ConnectError", "ConnectTimeout", "ClientConnectorError", "ClientConnectorDNSError"}:
        return ConnectFailed("The upstream cannot be reached.")
    status = getattr(error, "status_code", None)
    if "SSRFError" in names:
        return UpstreamSaid(Refusal(400, "An address in the messages is not one that this gateway fetches."), ())
    if type(error).__name__ in {"UnsupportedParamsError", "BadRequestError", "ImageFetchError"} and status == 400:
        return UpstreamSaid(Refusal(400, clean(str(getattr(error, "message", error)))), ())
    if type(error).__name__ == "AuthenticationError":
        return UpstreamFailed("The gateway's credentials for this upstream are not set up.")
    log.warning("LiteLLM gave up: %s", " from ".join(type(link).__name__ for link in links))
    missing = next((link for link in links if isinstance(link, ImportError)), None)
    if missing is not None:
        log.error("LiteLLM lacks a library for this provider: %s", missing)
        return UpstreamFailed("The gateway lacks a library that this upstream needs; its log says which.")
    return UpstreamBroken("The upstream's answer could not be understood.")


def _said(links: list[BaseException]) -> UpstreamSaid | None:
    """The upstream's own error, from the innermost link that has its response."""
    for link in reversed(links):
        response = getattr(link, "response", None)
        status = getattr(response, "status_code", None)
        headers = getattr(response, "headers", None)
        if isinstance(status, int) and status >= 400 and headers:
            return UpstreamSaid(_refusal(status, _body(response, links)), kept_headers(headers))
    return None


def _body(response: Any, links: list[BaseException]) -> bytes:
    try:
        text = response.content
    except Exception:  # a streamed response that nobody read: its text is in the SDK's message
        text = b""
    if isinstance(text, bytes) and text:
        return text
    for link in reversed(links):
        detail = getattr(link, "body", None)
        if isinstance(detail, dict):
            return msgspec.json.encode({"error": detail})
        message = getattr(link, "message", None)
        if isinstance(message, bytes) and message:
            return message
        if isinstance(message, str) and message.lstrip().startswith("{"):
            return message.encode()
    return b""


def _refusal(status: int, body: bytes) -> Refusal:
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        said = None
    if isinstance(said, list) and said:  # Gemini wraps its error in a list
        said = said[0]
    detail = said.get("error", said) if isinstance(said, dict) else None
    if isinstance(detail, str):
        detail = {"message": detail}
    if not isinstance(detail, dict):
        return Refusal(status, f"The upstream answered {status}.", type=_TYPES.get(status, "upstream_error"))
    message = (
        detail.get("message") or detail.get("Message") or detail.get("detail") or f"The upstream answered {status}."
    )
    kind, code, param = detail.get("type") or detail.get("status"), detail.get("code"), detail.get("param")
    return Refusal(
        status,
        str(message),
        type=str(kind) if kind else _TYPES.get(status, "upstream_error"),
        param=param if isinstance(param, str) else None,
        code=str(code) if code is not None and not isinstance(code, int) else None,
    )


def clean(message: str) -> str:
    """A message without the SDK's prefixes and advice."""
    message = _PREFIX.sub("", message)
    for advice in ("\nReceived M", " Handle with `litellm", " LiteLLM Retried"):
        message = message.split(advice)[0]
    return message.strip()


def _innermost_message(links: list[BaseException]) -> str:
    """What the upstream said of its failure; empty when only the connection's libraries say something."""
    if any(type(link).__module__.startswith(("httpx", "httpcore", "aiohttp")) for link in links):
        return ""
    for link in reversed(links):
        message = getattr(link, "message", None)
        if isinstance(message, str) and message and type(link).__module__.startswith(("litellm", "openai")):
            return clean(message)[:500]
    return ""
