"""Cross-origin requests: pages of the origins that the config names may call the data plane from a browser.

Off unless the config names origins: a key in a page is a key that everybody has, so an operator must want this.
"""

from __future__ import annotations

from collections.abc import Set

from gateway.caller import ReplyHeaders

EXPOSED = (
    b"x-metaspo-exchange, x-metaspo-domain, x-metaspo-version, x-metaspo-arm, x-request-id, retry-after, retry-after-ms"
)
"""Header fields of a reply that a page may read."""
MAX_AGE = b"600"
"""Seconds for which a browser may remember a preflight."""


def allowed(origins: Set[bytes], origin: bytes | None) -> ReplyHeaders:
    """The header fields that let a page of ``origin`` read a reply; none when it is not allowed to."""
    if origin is None or not (origin in origins or b"*" in origins):
        return []
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", EXPOSED),
        (b"vary", b"origin"),
    ]


def preflight(origins: Set[bytes], headers: dict[bytes, bytes], methods: bytes) -> ReplyHeaders | None:
    """The answer to a browser that asks first (``OPTIONS``); None when this is not such a question, or not allowed."""
    if b"access-control-request-method" not in headers or not (fields := allowed(origins, headers.get(b"origin"))):
        return None
    wanted = headers.get(b"access-control-request-headers", b"authorization, content-type")
    return [
        *fields,
        (b"access-control-allow-methods", methods),
        (b"access-control-allow-headers", wanted),
        (b"access-control-max-age", MAX_AGE),
    ]
