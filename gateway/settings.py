"""What the gateway needs of the settings, in the shape the hot path reads it.

The words and defaults of the config file are ``registry.Settings``; :func:`house_of` turns them into plain slots
once, at the start and at each SIGHUP. A request holds on to the :class:`House` it began with.
"""

from __future__ import annotations

import msgspec

from gateway.exchange import Target, Wire
from gateway.upstream import Timeouts
from registry import ModelRoute, Settings, UpstreamSettings

CLIENT_KEEP_ALIVE = 75
"""Seconds an idle caller's connection is kept: longer than the 60 s of the usual load balancers, so that they close
first."""
REQUEST_TIMEOUT = 30.0
"""Seconds a caller may take to send the head, and then between two pieces of the body."""
MAX_HEAD = 64 * 1024
"""Bytes of a request's head."""


class Upstream(msgspec.Struct, frozen=True):
    """One provider: where it is and how long it may take."""

    name: str
    wire: Wire
    base_url: str
    api_key: str
    headers: tuple[tuple[str, str], ...]
    timeouts: Timeouts
    max_in_flight: int
    weight: int


class Place(msgspec.Struct, frozen=True):
    """One deployment behind a model name: an upstream, the model's name there (None: the caller's), and its weight."""

    upstream: Upstream
    model: str | None
    weight: int = 1
    price_in: float | None = None
    price_out: float | None = None

    def target(self, asked: str, rest: str) -> Target:
        """The target for the name that was asked; ``rest`` is what a ``*`` in the route stood for."""
        model = self.model
        if model is None:
            model = asked
        elif model.endswith("*"):
            model = model[:-1] + rest
        up = self.upstream
        return Target(up.name, up.wire, model, up.base_url, up.api_key, self.price_in, self.price_out)


class Route(msgspec.Struct, frozen=True):
    """A model name (or prefix), the deployments behind it, and the names to try when they fail."""

    name: str
    places: tuple[Place, ...]
    fallbacks: tuple[str, ...]


class House(msgspec.Struct, frozen=True):
    """Everything the hot path reads of the settings."""

    upstreams: tuple[Upstream, ...]
    exact: dict[str, Route]
    prefixes: tuple[Route, ...]
    """Longest prefix first; names without their ``*``."""
    max_body: int = 32 * 2**20
    max_depth: int = 256
    max_copy: int = 2**20
    max_in_flight: int = 1024
    keepalive: float = 15.0
    drain: float = 30.0
    eject_after: int = 5
    eject_for: float = 10.0
    cors: frozenset[bytes] = frozenset()
    """Web origins whose pages may read replies; ``*`` for all; empty: none, and not a header of it."""
    log_requests: bool = False


def house_of(settings: Settings) -> House:
    """Plain slots from the config file's settings."""
    upstreams = {upstream.name: _upstream(upstream) for upstream in settings.upstreams}
    grouped: dict[str, list[ModelRoute]] = {}
    for entry in settings.models:
        grouped.setdefault(entry.name, []).append(entry)
    routes = [_route(name, entries, upstreams) for name, entries in grouped.items()]
    gateway = settings.gateway
    return House(
        upstreams=tuple(upstreams.values()),
        exact={route.name: route for route in routes if not route.name.endswith("*")},
        prefixes=tuple(
            sorted(
                (msgspec.structs.replace(route, name=route.name[:-1]) for route in routes if route.name.endswith("*")),
                key=lambda route: -len(route.name),
            )
        ),
        max_body=gateway.max_body_bytes,
        max_depth=gateway.max_depth,
        max_copy=gateway.max_response_copy_bytes,
        max_in_flight=gateway.max_in_flight,
        keepalive=gateway.keepalive,
        drain=gateway.drain,
        eject_after=gateway.eject_after,
        eject_for=gateway.eject_for,
        cors=frozenset(origin.encode("latin-1", "replace") for origin in gateway.cors),
        log_requests=gateway.log_requests,
    )


def _upstream(settings: UpstreamSettings) -> Upstream:
    return Upstream(
        name=settings.name,
        wire=settings.dialect,
        base_url=settings.base_url or "",
        api_key=settings.api_key or "",
        headers=tuple(settings.headers.items()),
        timeouts=Timeouts(**settings.timeouts.model_dump()),
        max_in_flight=settings.max_in_flight,
        weight=settings.weight,
    )


def _route(name: str, entries: list[ModelRoute], upstreams: dict[str, Upstream]) -> Route:
    fallbacks = dict.fromkeys(fallback for entry in entries for fallback in entry.fallbacks if fallback != name)
    places = tuple(
        Place(upstreams[entry.upstream], entry.model, entry.weight, entry.price_in, entry.price_out)
        for entry in entries
    )
    return Route(name, places, tuple(fallbacks))
