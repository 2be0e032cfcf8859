"""The speed limit of one model, learnt from the headers of its replies."""

from __future__ import annotations

import asyncio

import pytest

from optimizer.models.pace import Pace


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


def pace_of(clock: Clock, concurrency: int = 1) -> Pace:
    return Pace(concurrency, monotonic=clock, wall=clock, sleep=clock.sleep)


async def run(pace: Pace, calls: int, tokens: float = 1.0) -> None:
    for _ in range(calls):
        async with pace.slot(lambda: tokens):
            pass


async def test_without_headers_nothing_waits() -> None:
    clock = Clock()
    await run(pace_of(clock), 500)
    assert clock.now == 1000.0


async def test_requests_a_minute_are_kept() -> None:
    clock = Clock()
    pace = pace_of(clock)
    pace.learn({"x-ratelimit-limit-requests": "60"})
    await run(pace, 70)
    assert clock.now - 1000.0 == pytest.approx(60.0, abs=1.0)  # ten at once, then one a second


async def test_tokens_a_minute_are_kept() -> None:
    clock = Clock()
    pace = pace_of(clock)
    pace.learn({"anthropic-ratelimit-tokens-limit": "6000"})
    await run(pace, 30, tokens=100)
    assert clock.now - 1000.0 == pytest.approx(20.0, abs=1.0)


async def test_nothing_left_means_wait_for_the_reset() -> None:
    clock = Clock()
    pace = pace_of(clock)
    pace.learn(
        {
            "x-ratelimit-limit-requests": "6000",
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "1m30s",
        }
    )
    await run(pace, 1)
    assert clock.now == pytest.approx(1090.0)


async def test_a_pause_holds_everybody() -> None:
    clock = Clock()
    pace = pace_of(clock, concurrency=4)
    pace.pause(5)
    await asyncio.gather(*(run(pace, 1) for _ in range(4)))
    assert clock.now >= 1005.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        ("20ms", 0.02),
        ("6m0s", 360.0),
        ("1h2m", 3720.0),
        ("1970-01-01T00:17:00Z", 20.0),
        ("Thu, 01 Jan 1970 00:16:45 GMT", 5.0),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_spans_and_dates(text: str | None, seconds: float | None) -> None:
    found = pace_of(Clock()).seconds(text)
    assert found == (None if seconds is None else pytest.approx(seconds))


def test_retry_after_in_milliseconds_goes_first() -> None:
    assert pace_of(Clock()).retry_after({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
