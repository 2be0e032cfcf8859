"""Limits hold in one worker at once, in the fleet after one reconciliation, and per worker while the registry is
down.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from control_house import NOW, Clock
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.exchange import Exchange, Target, Usage
from gateway.limits import KeyLimits, exchange_cost, limited
from gateway.prices import Price, Prices
from registry import KeyRecord, Registry, RegistryUnavailable

PRICES = Prices({"gpt-x": Price(1.0, 10.0, cached=0.1)})


def key(**limits: Any) -> KeyRecord:
    return KeyRecord(id="k1", name="app", role="caller", hash="", **limits)


def limits(clock: Clock, worker: str = "w1", ledger: Any = None) -> KeyLimits:
    return KeyLimits(PRICES, clock=clock, worker=worker, ledger=ledger)


def exchange(owner: KeyRecord, clock: Clock, *, estimate: int = 0, usage: Usage | None = None, **more: Any) -> Exchange:
    made = Exchange("x1", "chat", clock.now, 0.0)
    made.key, made.estimate, made.usage, made.status = owner, estimate, usage, 200
    made.answered_by = "upstream"
    made.target = Target("up", "openai", "gpt-x")
    for name, value in more.items():
        setattr(made, name, value)
    return made


def test_a_key_without_limits_is_never_counted() -> None:
    clock = Clock()
    door = limits(clock)
    assert not limited(key())
    assert all(door.admit(key(), 10**9) is None for _ in range(100))
    door.settle(exchange(key(), clock))


def test_requests_a_minute_slide() -> None:
    clock = Clock(NOW - NOW % 60)
    door, app = limits(clock), key(requests_per_minute=10)
    assert all(door.admit(app, 1) is None for _ in range(10))
    refused = door.admit(app, 1)
    assert refused is not None
    assert (refused.status, refused.code, refused.type) == (429, "rate_limit_exceeded", "requests")
    assert refused.retry_after is not None
    clock.now += refused.retry_after - 1
    assert door.admit(app, 1) is not None
    clock.now += 1.001
    assert door.admit(app, 1) is None
    clock.now += 120
    assert all(door.admit(app, 1) is None for _ in range(10))


@given(st.lists(st.floats(0.0, 20.0), min_size=1, max_size=60), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_never_more_than_twice_the_limit_in_any_minute_and_the_wait_is_enough(gaps: list[float], rpm: int) -> None:
    clock = Clock(NOW - NOW % 60)
    door, app = limits(clock), key(requests_per_minute=rpm)
    admitted: list[float] = []
    for gap in gaps:
        clock.now += gap
        refusal = door.admit(app, 0)
        if refusal is None:
            admitted.append(clock.now)
        else:
            assert refusal.retry_after is not None
            clock.now += refusal.retry_after + 1e-6
            assert door.admit(app, 0) is None
            admitted.append(clock.now)
    for start in admitted:
        in_minute = sum(start <= at < start + 60 for at in admitted)
        assert in_minute <= 2 * rpm  # the sliding count is an estimate; around a full minute it errs by less than that


def test_tokens_are_booked_by_estimate_and_corrected() -> None:
    clock = Clock(NOW - NOW % 60)
    door, app = limits(clock), key(tokens_per_minute=100)
    assert door.admit(app, 80) is None
    assert door.admit(app, 30) is not None
    door.settle(exchange(app, clock, estimate=80, usage=Usage(10, 20)))
    assert door.admit(app, 30) is None
    too_large = door.admit(app, 101)
    assert too_large is not None
    assert too_large.retry_after is None
    assert "101" in too_large.message


def test_what_never_reached_the_upstream_costs_no_tokens() -> None:
    clock = Clock(NOW - NOW % 60)
    door, app = limits(clock), key(tokens_per_minute=100)
    assert door.admit(app, 100) is None
    door.settle(exchange(app, clock, estimate=100, answered_by="gateway", status=502))
    assert door.admit(app, 100) is None


def test_parallel_places_come_back() -> None:
    clock = Clock()
    door, app = limits(clock), key(parallel=2)
    assert door.admit(app, 0) is None
    assert door.admit(app, 0) is None
    refused = door.admit(app, 0)
    assert refused is not None
    assert refused.retry_after == 1
    door.settle(exchange(app, clock))
    assert door.admit(app, 0) is None


def test_the_budget_of_a_day_ends_at_midnight_utc() -> None:
    clock = Clock(NOW - NOW % 86_400)
    door, app = limits(clock), key(usd_per_day=1.0)
    assert door.admit(app, 0) is None
    door.settle(exchange(app, clock, usage=Usage(100_000, 100_000)))
    refused = door.admit(app, 0)
    assert refused is not None
    assert (refused.code, refused.retry_after) == ("budget_exceeded", 86_400.0)
    clock.now += 86_400
    assert door.admit(app, 0) is None


def test_a_model_without_a_price_costs_nothing_of_the_budget() -> None:
    clock = Clock()
    door, app = limits(clock), key(usd_per_day=1.0)
    assert door.admit(app, 0) is None
    door.settle(exchange(app, clock, usage=Usage(5, 5), target=Target("up", "openai", "nobody-knows")))
    assert door.admit(app, 0) is None


def test_a_price_of_the_config_wins() -> None:
    clock = Clock()
    priced = exchange(key(), clock, usage=Usage(1_000_000, 0))
    assert exchange_cost(priced, PRICES) == pytest.approx(1.0)
    priced.target = Target("up", "openai", "gpt-x", price_in=7.0)
    assert exchange_cost(priced, PRICES) == pytest.approx(7.0)
    assert exchange_cost(exchange(key(), clock), PRICES) is None


async def test_limits_hold_for_the_fleet_after_one_reconciliation(registry: Registry) -> None:
    clock = Clock(NOW - NOW % 60 + 5)
    app = key(requests_per_minute=10, parallel=12, usd_per_day=1.0, tokens_per_minute=1000)
    one, two = limits(clock, "w1", registry.add_usage), limits(clock, "w2", registry.add_usage)
    assert all(one.admit(app, 50) is None for _ in range(6))
    assert two.admit(app, 50) is None
    await one.reconcile()
    await two.reconcile()  # now two knows of one's six
    assert all(two.admit(app, 50) is None for _ in range(3))
    assert two.admit(app, 50) is not None
    await two.reconcile()
    await one.reconcile()
    assert one.admit(app, 50) is not None
    one.settle(exchange(app, clock, estimate=50, usage=Usage(0, 100_000)))
    await one.reconcile()
    await two.reconcile()
    refused = two.admit(app, 0)
    assert refused is not None
    assert refused.code == "budget_exceeded"


async def test_parallel_requests_of_other_workers_count_until_they_end(registry: Registry) -> None:
    clock = Clock(NOW - NOW % 60)
    app = key(parallel=2)
    one, two = limits(clock, "w1", registry.add_usage), limits(clock, "w2", registry.add_usage)
    assert one.admit(app, 0) is None
    assert two.admit(app, 0) is None
    await one.reconcile()
    await two.reconcile()
    assert two.admit(app, 0) is not None
    one.settle(exchange(app, clock))
    await one.reconcile()
    await two.reconcile()
    assert two.admit(app, 0) is None
    clock.now += 60  # a worker that was killed: its places are free in the next minute
    await two.reconcile()
    assert two.admit(app, 0) is not None
    two.settle(exchange(app, clock))
    assert two.admit(app, 0) is None


async def test_per_worker_while_the_registry_is_down_and_caught_up_after(registry: Registry) -> None:
    clock = Clock(NOW - NOW % 60)
    down = True

    async def ledger(deltas: Any, window: str, ttl: float) -> Any:
        if down:
            raise RegistryUnavailable("down")
        return await registry.add_usage(deltas, window, ttl)

    app = key(requests_per_minute=5)
    one, two = limits(clock, "w1", ledger), limits(clock, "w2", registry.add_usage)
    assert all(one.admit(app, 0) is None for _ in range(5))
    with pytest.raises(RegistryUnavailable):
        await one.reconcile()
    assert one.admit(app, 0) is not None
    down = False
    await one.reconcile()
    assert two.admit(app, 0) is None
    await two.reconcile()
    assert two.admit(app, 0) is not None


async def test_what_others_had_in_flight_is_forgotten_when_the_fleet_is_silent(registry: Registry) -> None:
    clock = Clock(NOW - NOW % 60)
    app = key(parallel=1)
    one, two = limits(clock, "w1", registry.add_usage), limits(clock, "w2", registry.add_usage)
    assert one.admit(app, 0) is None
    await one.reconcile()
    assert two.admit(app, 0) is None
    await two.reconcile()  # from here on the registry is down
    two.settle(exchange(app, clock))
    assert two.admit(app, 0) is not None
    clock.now += 60
    assert two.admit(app, 0) is not None
    clock.now += 60
    assert two.admit(app, 0) is None


async def test_the_background_task_survives_a_registry_that_is_down() -> None:
    calls = 0

    async def ledger(deltas: Any, window: str, ttl: float) -> Any:
        nonlocal calls
        calls += 1
        raise RegistryUnavailable("down")

    door = limits(Clock(), "w1", ledger)
    door.admit(key(parallel=1), 0)
    door.start()
    await asyncio.sleep(0)
    await door.stop()
    assert calls == 1
