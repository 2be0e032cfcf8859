"""How fast one model may be asked: so many at once, and what its replies' headers teach about requests and tokens a
minute.

OpenAI's ``x-ratelimit-*`` and Anthropic's ``anthropic-ratelimit-*`` headers are understood; endpoints that send none
are held by concurrency alone. One pause holds all callers of the model, so a busy endpoint is not hammered from many
sides.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime

_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BURST_SECONDS = 10.0
_NAMES = {
    "requests": (
        ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
        (
            "anthropic-ratelimit-requests-limit",
            "anthropic-ratelimit-requests-remaining",
            "anthropic-ratelimit-requests-reset",
        ),
    ),
    "tokens": (
        ("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
        (
            "anthropic-ratelimit-tokens-limit",
            "anthropic-ratelimit-tokens-remaining",
            "anthropic-ratelimit-tokens-reset",
        ),
    ),
}


class _Bucket:
    """A token bucket refilled at ``limit`` per minute, holding at most ten seconds' worth (at least one of
    anything)."""

    def __init__(self, limit: float, now: float) -> None:
        self.limit = limit
        self._level = self._capacity
        self._at = now

    @property
    def _capacity(self) -> float:
        return self.limit * _BURST_SECONDS / 60

    def wait(self, cost: float, now: float) -> float:
        """Take ``cost`` (going below zero if need be) and return the seconds to wait before using it."""
        rate = self.limit / 60
        self._level = min(self._capacity, self._level + (now - self._at) * rate)
        self._at = now
        self._level -= min(cost, self._capacity)
        return max(0.0, -self._level / rate)


class Pace:
    """The speed limit of one model, shared by all who ask it."""

    def __init__(
        self,
        concurrency: int,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._slots = asyncio.Semaphore(concurrency)
        self._monotonic = monotonic
        self._wall = wall
        self._sleep = sleep
        self._buckets: dict[str, _Bucket] = {}
        self._paused_until = 0.0

    @asynccontextmanager
    async def slot(self, tokens: Callable[[], float]) -> AsyncIterator[None]:
        """A place for one request that will cost ``tokens()``; waits for room, for the limits and for a pause to
        end."""
        async with self._slots:
            if self._buckets or self._paused_until:
                await self._hold(tokens())
            yield

    async def _hold(self, tokens: float) -> None:
        now = self._monotonic()
        waits = [self._paused_until - now]
        for name, cost in (("requests", 1.0), ("tokens", tokens)):
            if name in self._buckets:
                waits.append(self._buckets[name].wait(cost, now))
        if (longest := max(waits)) > 0:
            await self._sleep(longest)

    def pause(self, seconds: float) -> None:
        """Let nobody ask for so many seconds."""
        self._paused_until = max(self._paused_until, self._monotonic() + seconds)

    def learn(self, headers: Mapping[str, str]) -> None:
        """Take the limits that a reply's headers (lower-case names or case-insensitive mapping) tell."""
        for what, dialects in _NAMES.items():
            for limit_name, remaining_name, reset_name in dialects:
                limit = _number(headers.get(limit_name))
                if limit is None or limit <= 0:
                    continue
                bucket = self._buckets.get(what)
                if bucket is None or bucket.limit != limit:
                    self._buckets[what] = _Bucket(limit, self._monotonic())
                if _number(headers.get(remaining_name)) == 0:
                    self.pause(self.seconds(headers.get(reset_name)) or 1.0)

    def retry_after(self, headers: Mapping[str, str]) -> float | None:
        """Seconds that a refusal asks to wait, or None."""
        milliseconds = _number(headers.get("retry-after-ms"))
        if milliseconds is not None:
            return milliseconds / 1000
        return self.seconds(headers.get("retry-after"))

    def seconds(self, text: str | None) -> float | None:
        """A span ("1m30s", "20ms", "7"), an RFC 3339 or an HTTP date, as seconds from now; None when it is none of
        these."""
        if not text:
            return None
        plain = _number(text)
        if plain is not None:
            return max(0.0, plain)
        parts = _SPAN.findall(text)
        if parts and "".join(value + unit for value, unit in parts) == text.strip():
            return sum(float(value) * _SECONDS[unit] for value, unit in parts)
        from email.utils import parsedate_to_datetime

        for read in (datetime.fromisoformat, parsedate_to_datetime):
            try:
                return max(0.0, read(text).timestamp() - self._wall())
            except (ValueError, TypeError):
                continue
        return None


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
