"""So many calls at one time per provider, of all workers together; a killed worker's share is free again."""

from __future__ import annotations

import asyncio

import pytest

from jobs.places import Places
from registry import Registry, RegistryUnavailable

AT = "http://127.0.0.1:1/v1"


class Provider:
    """Counts who is with it at one time."""

    def __init__(self) -> None:
        self.now = self.most = self.done = 0
        self.by: dict[str, int] = {}

    async def call(self, places: Places, name: str, limit: int, seconds: float = 0.01) -> None:
        async with places.at(AT, limit):
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(seconds)
            self.now -= 1
            self.done += 1
            self.by[name] = self.by.get(name, 0) + 1


def _worker(registry: Registry, name: str, ttl: float = 2.0) -> Places:
    return Places(registry, name, ttl=ttl, every=0.05)


async def test_two_workers_together_stay_within_the_limit_and_share_it(registry: Registry) -> None:
    provider = Provider()
    one, two = _worker(registry, "one"), _worker(registry, "two")
    first = asyncio.create_task(_many(provider, one, "one", 800))
    await asyncio.sleep(0.3)
    alone = provider.most
    second = asyncio.create_task(_many(provider, two, "two", 60))
    await second
    assert not first.done(), "who came first did not have to end first"
    await first
    assert alone == 4, "a worker alone may use all of it"
    assert provider.most == 4 and provider.done == 860
    await one.close()
    await two.close()


async def _many(provider: Provider, places: Places, name: str, n: int) -> None:
    await asyncio.gather(*(provider.call(places, name, 4) for _ in range(n)))


async def test_a_killed_workers_share_is_free_when_its_grant_lapses(registry: Registry) -> None:
    provider = Provider()
    dead, alive = _worker(registry, "dead", ttl=0.6), _worker(registry, "alive", ttl=0.6)
    hanging = asyncio.create_task(provider.call(dead, "dead", 1, seconds=60))
    await asyncio.sleep(0.2)
    assert provider.now == 1
    share = dead._shares[AT]
    assert share.keeper is not None
    share.keeper.cancel()  # nobody renews any more, and nothing is given back
    waiting = asyncio.create_task(provider.call(alive, "alive", 1))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    async with asyncio.timeout(5):
        await waiting
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)
    await alive.close()


async def test_a_share_that_is_not_needed_any_more_is_given_back_at_once(registry: Registry) -> None:
    provider = Provider()
    idle, busy = _worker(registry, "idle", ttl=60), _worker(registry, "busy", ttl=60)
    await provider.call(idle, "idle", 1)
    async with asyncio.timeout(5):
        await provider.call(busy, "busy", 1)
    await busy.close()
    async with asyncio.timeout(5):
        await provider.call(_worker(registry, "third", ttl=60), "third", 1)


async def test_more_workers_than_places_take_turns(registry: Registry) -> None:
    provider = Provider()
    workers = {name: _worker(registry, name, ttl=0.3) for name in ("a", "b", "c")}
    jobs = [asyncio.create_task(_one_after_the_other(provider, places, name, 20)) for name, places in workers.items()]
    async with asyncio.timeout(20):
        await asyncio.gather(*jobs)
    assert provider.by == {"a": 20, "b": 20, "c": 20} and provider.most <= 2


async def _one_after_the_other(provider: Provider, places: Places, name: str, n: int) -> None:
    for _ in range(n):
        await provider.call(places, name, 2, seconds=0.02)


class Away:
    """A registry that cannot be reached while ``away``."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.away = False

    async def share_places(self, *args: object, **more: object) -> tuple[int, int]:
        if self.away:
            raise RegistryUnavailable("Redis is away.")
        return await self.registry.share_places(*args, **more)  # type: ignore[arg-type]


async def test_without_the_registry_a_worker_goes_on_until_its_share_lapses_and_then_waits(registry: Registry) -> None:
    provider, away = Provider(), Away(registry)
    places = Places(away, "one", ttl=0.5, every=0.05)  # type: ignore[arg-type]
    await provider.call(places, "one", 2)
    away.away = True
    await provider.call(places, "one", 2)
    await asyncio.sleep(0.6)
    late = asyncio.create_task(provider.call(places, "one", 2))
    await asyncio.sleep(0.3)
    assert not late.done() and provider.done == 2
    away.away = False
    async with asyncio.timeout(5):
        await late
    await places.close()


async def test_who_stops_waiting_takes_no_place(registry: Registry) -> None:
    provider = Provider()
    places = _worker(registry, "one")
    long = asyncio.create_task(provider.call(places, "one", 1, seconds=0.3))
    await asyncio.sleep(0.1)
    gone = asyncio.create_task(provider.call(places, "one", 1))
    await asyncio.sleep(0.05)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    await long
    async with asyncio.timeout(5):
        await provider.call(places, "one", 1)
    assert provider.most == 1 and places._shares[AT]._in_use == 0
    await places.close()
