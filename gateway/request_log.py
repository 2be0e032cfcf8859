"""One line per request, where the config wants it: numbers and names, never a word of what was said.

The unit is left out, and the model is the upstream's name for it: what a caller wrote never reaches the log.
"""

from __future__ import annotations

import logging

from gateway.exchange import Exchange

log = logging.getLogger("gateway.requests")


def log_exchange(exchange: Exchange) -> None:
    """Write the line of a finished exchange. With JSON lines each value is a field of its own."""
    target, usage, key = exchange.target, exchange.usage, exchange.key
    fields: dict[str, str | int | float] = {
        "exchange": exchange.id,
        "dialect": exchange.dialect,
        "status": exchange.status,
        "ending": exchange.ending or "whole",
        "key": key.id if key is not None else "",
        "domain": exchange.domain,
        "arm": exchange.arm,
        "version": exchange.version or 0,
        "upstream": target.upstream if target is not None else "",
        "model": target.model if target is not None and exchange.status == 200 else "",
        "stream": int(exchange.stream),
        "prompt_tokens": usage.prompt_tokens if usage is not None else 0,
        "answer_tokens": usage.answer_tokens if usage is not None else 0,
        "first_byte_ms": round(exchange.time_to_first_token * 1000, 1),
        "ms": round(exchange.latency * 1000, 1),
    }
    line = " ".join(f"{name}={value}" for name, value in fields.items() if value != "")
    log.info("%s", line, extra={"fields": fields})
