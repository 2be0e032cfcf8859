"""Who answers: from a model name to one of several targets.

Two random deployments of the asked model are compared and the one that is expected to answer sooner is taken: requests
in flight times smoothed latency, over weight ("the power of two choices": nearly as good as knowing the least busy of
all, and it does not send every worker to the same one). A deployment that fails several times in a row is ejected for a
while, then probed by a single request ("half-open"): its answer decides. Fallbacks are taken in order when nobody
better is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Literal

from gateway.errors import RequestRefused
from gateway.exchange import Target, Wire
from gateway.refusals import ALL_FULL, NO_UPSTREAM, unknown_model
from gateway.settings import House, Place, Route, Upstream

SMOOTHING = 0.2
"""Weight of the newest latency in the moving average."""
LONGEST_EJECTION = 300.0
"""Seconds: ejections double up to this."""
LONGEST_REST = 30.0
"""Seconds a deployment that said 429 is left alone at most, where there is another."""

MOST_TARGETS = 1000
LONGEST_NAME = 256
"""Characters of a model's name whose target is remembered."""

Verdict = Literal["good", "failed", "busy", "unknown"]
"""How a request went for its target: ``busy`` is a 429, ``unknown`` when the caller left."""


class Health:
    """What is known of one deployment in this worker. Times from a monotonic clock, in seconds."""

    __slots__ = ("ejections", "failures", "in_flight", "latency", "out_until", "probing")

    def __init__(self) -> None:
        self.in_flight = 0
        self.latency = 0.0
        self.failures = 0
        self.ejections = 0
        self.out_until = 0.0
        self.probing = False

    def available(self, now: float) -> bool:
        """Whether a request may go there: not ejected, or due for a probe that nobody else is making."""
        return not self.out_until or (now >= self.out_until and not self.probing)


class Pick:
    """One deployment chosen for one request, counted as in flight until :meth:`done`."""

    __slots__ = ("_router", "began", "health", "probe", "target", "upstream")

    def __init__(self, router: Router, upstream: Upstream, target: Target, health: Health, now: float) -> None:
        self._router = router
        self.upstream = upstream
        self.target = target
        self.health = health
        self.began = now
        health.in_flight += 1
        self.probe = health.out_until > 0.0
        if self.probe:
            health.probing = True

    def done(self, verdict: Verdict, *, first_byte_at: float = 0.0, retry_after: float = 0.0) -> None:
        """Book how it went."""
        health = self.health
        health.in_flight -= 1
        if self.probe:
            health.probing = False
        if verdict == "good":
            if first_byte_at:
                took = first_byte_at - self.began
                health.latency = took if not health.latency else health.latency + SMOOTHING * (took - health.latency)
            health.failures = health.ejections = 0
            health.out_until = 0.0
        elif verdict == "failed":
            self._router.failed(health, probe=self.probe)
        elif verdict == "busy":
            health.out_until = self._router.clock() + min(max(retry_after, 0.5), LONGEST_REST)


class Router:
    """Chooses targets. One per worker and settings; ``clock`` is monotonic. ``known``: the one before a reload."""

    def __init__(self, house: House, clock: Callable[[], float], random: Random, known: Router | None = None) -> None:
        self.house = house
        self.clock = clock
        self.random = random
        self.healths: dict[tuple[str, str | None], Health] = {} if known is None else known.healths
        """By upstream and model there."""
        self._targets: dict[tuple[int, str], Target] = {}
        self._only: dict[tuple[str, Wire], tuple[Upstream, Target, Health]] = {}
        """By model and wire: where there is one deployment and no fallback, there is nothing to choose."""
        self._any: dict[Wire, Route] = {}
        for wire in ("openai", "anthropic", "litellm"):
            chosen = next((up for up in house.upstreams if up.wire == wire), next(iter(house.upstreams), None))
            if chosen is not None:
                self._any[wire] = Route("*", (Place(chosen, None),), ())

    def health(self, place: Place) -> Health:
        """What is known of one deployment."""
        key = (place.upstream.name, place.model)
        health = self.healths.get(key)
        if health is None:
            health = self.healths[key] = Health()
        return health

    def upstreams_up(self) -> dict[str, bool]:
        """Which upstreams have a deployment that is not ejected; one that nobody has asked yet counts as up."""
        up = {upstream.name: True for upstream in self.house.upstreams}
        asked: dict[str, bool] = {}
        for (name, _), health in self.healths.items():
            asked[name] = asked.get(name, False) or not health.out_until
        return {**up, **{name: good for name, good in asked.items() if name in up}}

    def failed(self, health: Health, *, probe: bool) -> None:
        """Count a failure; eject after enough in a row (or a failed probe), for longer each time."""
        health.failures += 1
        if probe or health.failures >= self.house.eject_after:
            seconds = min(self.house.eject_for * 2**health.ejections, LONGEST_EJECTION)
            health.ejections += 1
            health.out_until = self.clock() + seconds

    def choose(self, model: str, wire: Wire) -> Pick:
        """The target to ask. Raises RequestRefused: 404 for a model that nobody serves, 503 when all are at their
        limit."""
        clock = self.clock
        now = clock()
        only = self._only.get((model, wire))
        if only is not None:
            upstream, target, health = only
            if not health.out_until and health.in_flight < upstream.max_in_flight:
                return Pick(self, upstream, target, health, now)
        ways = self._ways(model, wire)
        for route, asked, rest in ways:
            place = self._best(route.places, now)
            if place is not None:
                pick = self._pick(place, asked, rest, now)
                if len(ways) == 1 and len(route.places) == 1 and len(asked) <= LONGEST_NAME:
                    self._only[model, wire] = pick.upstream, pick.target, pick.health
                return pick
        for route, asked, rest in ways:  # everybody is ejected: asking anyway beats refusing
            for place in route.places:
                if self.health(place).in_flight < place.upstream.max_in_flight:
                    return self._pick(place, asked, rest, now)
        raise RequestRefused(ALL_FULL)

    def another(self, failed: Pick, model: str, wire: Wire) -> Pick | None:
        """The next best after one that failed, or None when there is no other."""
        now = self.clock()
        for route, asked, rest in self._ways(model, wire):
            others = [place for place in route.places if self.health(place) is not failed.health]
            if others and (place := self._best(others, now)) is not None:
                return self._pick(place, asked, rest, now)
        return None

    def find(self, model: str) -> tuple[Route | None, str]:
        """The route of a model name, and what its ``*`` stands for."""
        route = self.house.exact.get(model)
        if route is not None:
            return route, ""
        for candidate in self.house.prefixes:
            if model.startswith(candidate.name):
                return candidate, model[len(candidate.name) :]
        return None, ""

    def _pick(self, place: Place, asked: str, rest: str, now: float) -> Pick:
        key = (id(place), asked)
        target = self._targets.get(key)
        if target is None:
            target = place.target(asked, rest)
            if len(asked) <= LONGEST_NAME:  # names come from callers: the memory of them is bounded
                if len(self._targets) >= MOST_TARGETS:
                    self._targets.clear()
                    self._only.clear()
                self._targets[key] = target
        return Pick(self, place.upstream, target, self.health(place), now)

    def _best(self, places: Sequence[Place], now: float) -> Place | None:
        if len(places) == 1:
            return places[0] if self._able(places[0], now) else None
        able = [place for place in places if self._able(place, now)]
        if len(able) <= 1:
            return able[0] if able else None
        return min(self.random.sample(able, 2), key=self._expected)

    def _able(self, place: Place, now: float) -> bool:
        health = self.health(place)
        if not health.out_until:
            return health.in_flight < place.upstream.max_in_flight
        return health.in_flight < place.upstream.max_in_flight and health.available(now)

    def _expected(self, place: Place) -> float:
        health = self.health(place)
        return (health.in_flight + 1) * (health.latency or 0.001) / (place.weight * place.upstream.weight)

    def _ways(self, model: str, wire: Wire) -> list[tuple[Route, str, str]]:
        """The asked model's route and its fallbacks', each with the name asked there and what its ``*`` stands for."""
        route, rest = self.find(model)
        if route is None:
            if self.house.exact or self.house.prefixes:
                raise RequestRefused(unknown_model(model))
            if not self._any:
                raise RequestRefused(NO_UPSTREAM)
            return [(self._any[wire], model, "")]
        return [(route, model, rest), *self._fallbacks(route)] if route.fallbacks else [(route, model, rest)]

    def _fallbacks(self, route: Route) -> Iterator[tuple[Route, str, str]]:
        for name in route.fallbacks:
            other, rest = self.find(name)
            if other is not None:
                yield other, name, rest
