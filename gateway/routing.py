"""Who answers: from a model name to one of several targets.

Two random deployments of the asked model are compared and the one that is expected to answer sooner is taken: requests in
flight times smoothed latency, over weight ("the power of two choices": nearly as good as knowing the least busy of all, and
it does not send every worker to the same one). A deployment that fails several times in a row is ejected for a while, then
probed by a single request ("half-open"): its answer decides. Fallbacks are taken in order when nobody better is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from gateway.errors import RequestRefused
from gateway.exchange import Refusal, Target, Wire
from gateway.settings import House, Place, Route, Upstream

SMOOTHING = 0.2
"""Weight of the newest latency in the moving average."""
LONGEST_EJECTION = 300.0
"""Seconds: ejections double up to this."""


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

    __slots__ = ("_router", "began", "health", "target", "upstream")

    def __init__(self, router: Router, upstream: Upstream, target: Target, health: Health, now: float) -> None:
        self._router = router
        self.upstream = upstream
        self.target = target
        self.health = health
        self.began = now
        health.in_flight += 1
        if health.out_until:
            health.probing = True

    def done(self, verdict: str, *, first_byte_at: float = 0.0, retry_after: float = 0.0) -> None:
        """Book how it went: ``good`` | ``failed`` | ``busy`` (the upstream said 429) | ``unknown`` (the caller left)."""
        health = self.health
        health.in_flight -= 1
        if verdict == "good":
            if first_byte_at:
                took = first_byte_at - self.began
                health.latency = took if not health.latency else health.latency + SMOOTHING * (took - health.latency)
            health.failures = health.ejections = 0
            health.out_until = 0.0
            health.probing = False
        elif verdict == "failed":
            self._router.failed(health)
        elif verdict == "busy":
            health.probing = False
            health.out_until = self._router.clock() + min(max(retry_after, 0.5), 30.0)
        elif health.probing:
            health.probing = False


class Router:
    """Chooses targets. One per worker and settings; ``clock`` is monotonic."""

    def __init__(self, house: House, clock: Callable[[], float], random: Random, known: Router | None = None) -> None:
        self.house = house
        self.clock = clock
        self.random = random
        self.healths: dict[tuple[str, str | None], Health] = {} if known is None else known.healths
        """By upstream and model; kept over a reload."""

    def health(self, place: Place) -> Health:
        """What is known of one deployment."""
        key = (place.upstream.name, place.model)
        health = self.healths.get(key)
        if health is None:
            health = self.healths[key] = Health()
        return health

    def failed(self, health: Health) -> None:
        """Count a failure; eject after enough in a row, for longer each time."""
        health.failures += 1
        if health.probing or health.failures >= self.house.eject_after:
            health.probing = False
            seconds = min(self.house.eject_for * 2**health.ejections, LONGEST_EJECTION)
            health.ejections += 1
            health.out_until = self.clock() + seconds

    def candidates(self, model: str, wire: Wire) -> Iterator[Pick]:
        """Targets in the order in which they should be asked. Each that is taken counts as in flight until ``done``.

        Raises RequestRefused: 404 for a model that nobody serves, 503 when every upstream is at its limit.
        """
        now = self.clock()
        tried: set[int] = set()
        full = False
        last_resort: tuple[Place, str, str] | None = None
        for route, asked, rest in self._routes(model, wire):
            places = list(route.places)
            while places:
                place = self._best(places, now)
                if place is None:
                    last_resort = last_resort or (places[0], asked, rest)
                    break
                places.remove(place)
                health = self.health(place)
                if id(health) in tried:
                    continue
                if health.in_flight >= place.upstream.max_in_flight:
                    full = True
                    continue
                tried.add(id(health))
                yield Pick(self, place.upstream, place.target(asked, rest), health, now)
        if not tried and last_resort is not None:
            # everybody is ejected: asking anyway beats refusing
            place, asked, rest = last_resort
            health = self.health(place)
            if health.in_flight < place.upstream.max_in_flight:
                tried.add(id(health))
                yield Pick(self, place.upstream, place.target(asked, rest), health, now)
            else:
                full = True
        if not tried and full:
            raise RequestRefused(
                Refusal(
                    503,
                    "Every upstream for this model is at its limit.",
                    "server_error",
                    code="overloaded",
                    retry_after=1.0,
                )
            )

    def _best(self, places: list[Place], now: float) -> Place | None:
        if len(places) == 1:
            return places[0] if self.health(places[0]).available(now) else None
        able = [place for place in places if self.health(place).available(now)]
        if len(able) <= 1:
            return able[0] if able else None
        return min(self.random.sample(able, 2), key=self._expected)

    def _expected(self, place: Place) -> float:
        health = self.health(place)
        return (health.in_flight + 1) * (health.latency or 0.001) / (place.weight * place.upstream.weight)

    def _routes(self, model: str, wire: Wire) -> Iterator[tuple[Route, str, str]]:
        route, rest = self.find(model)
        if route is None:
            if self.house.exact or self.house.prefixes:
                raise RequestRefused(unknown_model(model))
            yield self._any(wire), model, ""
            return
        yield route, model, rest
        for fallback in route.fallbacks:
            other, rest = self.find(fallback)
            if other is not None:
                yield other, fallback, rest

    def find(self, model: str) -> tuple[Route | None, str]:
        """The route of a model name, and what its ``*`` stands for."""
        route = self.house.exact.get(model)
        if route is not None:
            return route, ""
        for candidate in self.house.prefixes:
            if model.startswith(candidate.name):
                return candidate, model[len(candidate.name) :]
        return None, ""

    def _any(self, wire: Wire) -> Route:
        upstreams = self.house.upstreams
        if not upstreams:
            raise RequestRefused(
                Refusal(
                    503,
                    "No upstream is configured: add one under `upstreams` in the config file.",
                    "server_error",
                    code="no_upstream",
                )
            )
        chosen = next((upstream for upstream in upstreams if upstream.wire == wire), upstreams[0])
        return Route("*", (Place(chosen, None),), ())


def unknown_model(model: str) -> Refusal:
    """404 as OpenAI words it."""
    shown = model if len(model) <= 100 else model[:100] + "..."
    return Refusal(
        404,
        f"The model '{shown}' does not exist or you do not have access to it.",
        param="model",
        code="model_not_found",
    )
