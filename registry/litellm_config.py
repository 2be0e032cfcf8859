"""A LiteLLM proxy ``config.yaml``, read as it is: ``model_list`` in place of ``upstreams`` and ``models``.

Each entry of ``model_list`` names a model for callers and how LiteLLM would reach it. A model of the ``openai/`` or
``anthropic/`` provider goes through the wire lane (bytes through), everything else through the LiteLLM SDK. Entries
with the same ``model_name`` are deployments of one name. What has no meaning here is listed, not refused.
"""

from __future__ import annotations

from typing import Any

from registry.errors import SettingsError

_OWN = ("home", "redis_url", "redis_prefix", "listen", "keys", "domains", "gateway", "jobs", "retention")
_OPENAI = "https://api.openai.com/v1"
_ANTHROPIC = "https://api.anthropic.com"
_PLAIN_OPENAI = ("gpt-", "o1", "o3", "o4", "chatgpt-", "text-embedding-")
_NO_PARAMS = {"model", "api_key", "api_base", "base_url", "input_cost_per_token", "output_cost_per_token", "weight"}


def is_litellm_config(raw: dict[str, Any]) -> bool:
    """True when the file has LiteLLM's ``model_list``."""
    return "model_list" in raw


def translate_litellm_config(raw: dict[str, Any], where: str) -> tuple[dict[str, Any], tuple[str, ...], dict[str, str]]:
    """-> (our settings, notes on what was left out, environment variables that the file sets). Raises SettingsError."""
    if not isinstance(raw["model_list"], list):
        raise SettingsError(f"{where}: model_list must be a list of models.")
    for ours in ("upstreams", "models"):
        if ours in raw:
            raise SettingsError(f"{where}: the file has both model_list and {ours}: keep one of them.")
    settings = {key: value for key, value in raw.items() if key in _OWN or key not in _SECTIONS}
    upstreams: dict[tuple[str, str | None, str | None, str], dict[str, Any]] = {}
    models = []
    for index, entry in enumerate(raw["model_list"]):
        models.append(_model(entry, f"{where}: model_list[{index}]", upstreams))
    notes: list[str] = []
    for fallback in _fallbacks(raw):
        for model in models:
            if model["name"] in fallback:
                model["fallbacks"] = list(fallback[model["name"]])
    general = raw.get("general_settings") or {}
    if general.get("master_key"):
        master = {"name": "master", "role": "operator", "key": general["master_key"], "both_planes": True}
        settings.setdefault("keys", []).append(master)
    elif not settings.get("keys"):
        notes.append(
            "general_settings.master_key is missing, and here nobody calls without a key: make one, see `keys`"
        )
    notes += [f"general_settings.{key} has no meaning here" for key in general if key != "master_key"]
    notes += [
        f"litellm_settings.{key} has no meaning here" for key in raw.get("litellm_settings") or {} if key != "fallbacks"
    ]
    notes += [
        f"router_settings.{key} has no meaning here" for key in raw.get("router_settings") or {} if key != "fallbacks"
    ]
    variables = {str(key): str(value) for key, value in (raw.get("environment_variables") or {}).items()}
    settings["upstreams"] = list(upstreams.values())
    settings["models"] = models
    return settings, tuple(notes), variables


_SECTIONS = ("model_list", "litellm_settings", "router_settings", "general_settings", "environment_variables")


def _model(
    entry: Any, place: str, upstreams: dict[tuple[str, str | None, str | None, str], dict[str, Any]]
) -> dict[str, Any]:
    params = entry.get("litellm_params") if isinstance(entry, dict) else None
    if not isinstance(params, dict) or not isinstance(params.get("model"), str) or "model_name" not in entry:
        raise SettingsError(f"{place} needs a model_name and litellm_params with a model.")
    dialect, base_url, model = _lane(params)
    api_key = params.get("api_key")
    if api_key is None and dialect != "litellm" and base_url in (_OPENAI, _ANTHROPIC):
        api_key = "os.environ/OPENAI_API_KEY" if dialect == "openai" else "os.environ/ANTHROPIC_API_KEY"
    provider = params["model"].split("/", 1)[0] if dialect == "litellm" and "/" in params["model"] else dialect
    identity = (dialect, base_url, api_key, provider)
    if identity not in upstreams:
        taken = {upstream["name"] for upstream in upstreams.values()}
        name = provider if provider not in taken else f"{provider}-{sum(n.startswith(provider) for n in taken) + 1}"
        upstream: dict[str, Any] = {"name": name, "dialect": dialect}
        if base_url:
            upstream["base_url"] = base_url
        if api_key:
            upstream["api_key"] = api_key
        upstreams[identity] = upstream
    route: dict[str, Any] = {"name": entry["model_name"], "upstream": upstreams[identity]["name"], "model": model}
    if str(entry["model_name"]).endswith("*") and model.endswith("*"):
        del route["model"]
    for theirs, ours in (("input_cost_per_token", "price_in"), ("output_cost_per_token", "price_out")):
        price = params.get(theirs, (entry.get("model_info") or {}).get(theirs))
        if price is not None:
            route[ours] = float(price) * 1e6
    if isinstance(params.get("weight"), int) and params["weight"] > 0:
        route["weight"] = params["weight"]
    more = {key: value for key, value in params.items() if key not in _NO_PARAMS}
    if dialect == "litellm" and more:
        route["params"] = more
    return route


def _lane(params: dict[str, Any]) -> tuple[str, str | None, str]:
    """-> (dialect, base_url, model name at the upstream)."""
    model: str = params["model"]
    base: str | None = params.get("api_base") or params.get("base_url")
    provider, _, rest = model.partition("/")
    if provider in ("openai", "hosted_vllm", "custom_openai") and rest and (base or provider == "openai"):
        return "openai", base or _OPENAI, rest
    if provider == "anthropic" and rest:
        return "anthropic", base or _ANTHROPIC, rest
    if "/" not in model and (base or model.startswith(_PLAIN_OPENAI)):
        return "openai", base or _OPENAI, model
    if "/" not in model and model.startswith("claude-"):
        return "anthropic", _ANTHROPIC, model
    return "litellm", base, model


def _fallbacks(raw: dict[str, Any]) -> list[dict[str, list[str]]]:
    found: list[dict[str, list[str]]] = []
    for section in ("litellm_settings", "router_settings"):
        found += (raw.get(section) or {}).get("fallbacks") or []
    return [item for item in found if isinstance(item, dict)]
