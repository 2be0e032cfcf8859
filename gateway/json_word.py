"""``response_format: json_object`` is served only to conversations in which the word "json" stands.

So an injected prompt can make such a request valid, or, where it replaces the caller's, invalid, and the next version
the other way round. Nothing is changed about that; the log says it, once for each version.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from gateway.body import Body, Edit, splice
from gateway.exchange import Exchange

log = logging.getLogger("gateway")

_told: dict[tuple[str, int | None, bool], None] = {}
MOST = 1000
"""Versions whose line is remembered."""


def notice(exchange: Exchange, body: Body, edits: Sequence[Edit]) -> None:
    """Log when the prompt of this exchange decides whether the word is there. Called where ``response_format`` is."""
    if b"json_object" not in bytes(body.values["response_format"]) or "messages" not in body:
        return
    start, end = body.span("messages")
    before = b"json" in body.raw[start:end].lower()
    inside = [(left - start, right - start, new) for left, right, new in edits if start <= left and right <= end]
    if before == (b"json" in splice(body.raw[start:end], inside).lower()):
        return
    line = (exchange.served_domain, exchange.version, before)
    if line not in _told:
        if len(_told) >= MOST:
            _told.clear()
        _told[line] = None
        log.warning(
            'version %s of %s %s the word "json" in requests for a json_object: the provider asks for it',
            exchange.version,
            exchange.served_domain,
            "removes" if before else "alone brings",
        )
