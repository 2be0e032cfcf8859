"""What the clock needs of the settings. The file itself is read by ``registry.load_settings``; section ``jobs`` is
documented there. Here a model's name becomes an endpoint that the optimizer can call.
"""

from __future__ import annotations

import difflib

import msgspec

from jobs.errors import BadModel
from registry import ModelRoute, Settings, UpstreamSettings


class Endpoint(msgspec.Struct, frozen=True):
    """Where a model is reached. ``litellm`` is true when the name is one that LiteLLM resolves by itself."""

    model: str
    provider: str
    api_base: str | None = None
    api_key: str | None = None
    headers: dict[str, str] = {}
    price_in: float | None = None
    price_out: float | None = None
    concurrency: int = 8
    timeout: float = 120.0


def find_endpoint(settings: Settings, name: str) -> Endpoint:
    """The endpoint of a model name, the way the gateway would route it. Raises BadModel, which says what to mend."""
    upstreams = {u.name: u for u in settings.upstreams}
    if not upstreams:
        raise BadModel(f"No upstream is configured, so the model {name!r} cannot be called; add one under `upstreams`.")
    if not settings.models:
        return _endpoint(settings, _first_choice(settings.upstreams), name, None)
    exact = next((r for r in settings.models if r.name == name), None)
    starred = [r for r in settings.models if r.name.endswith("*") and name.startswith(r.name[:-1])]
    route = exact or max(starred, key=lambda r: len(r.name), default=None)
    if route is None:
        near = difflib.get_close_matches(name, [r.name for r in settings.models], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; add it under `models` (known: {len(settings.models)})."
        raise BadModel(f"No model {name!r} is configured{hint}")
    return _endpoint(settings, upstreams[route.upstream], route.model or name, route)


def _first_choice(upstreams: list[UpstreamSettings]) -> UpstreamSettings:
    return next((u for u in upstreams if u.dialect == "openai"), upstreams[0])


def _endpoint(settings: Settings, upstream: UpstreamSettings, model: str, route: ModelRoute | None) -> Endpoint:
    prefix = {"anthropic": "anthropic/"}.get(upstream.dialect, "")
    return Endpoint(
        model=model if model.startswith(prefix) else prefix + model,
        provider=upstream.name,
        api_base=upstream.base_url,
        api_key=upstream.api_key,
        headers=dict(upstream.headers),
        price_in=route.price_in if route else None,
        price_out=route.price_out if route else None,
        concurrency=min(settings.jobs.calls_in_flight, upstream.max_in_flight),
        timeout=upstream.timeouts.total,
    )
