"""What a model costs: as told in its settings, else looked up in the price list that LiteLLM ships."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from optimizer.records import ModelSpec
from optimizer.run.spending import Price

_BATCH_SHARE = 0.5
_LIST = "model_prices_and_context_window_backup.json"


def price_of(spec: ModelSpec) -> Price:
    """The price of a model's tokens; unknown when neither the settings nor the list has it. Batch execution costs
    half."""
    per_in, per_out = spec.price_in, spec.price_out
    if per_in is None or per_out is None:
        listed = {} if spec.api_base or spec.model.startswith("world:") else _listed(spec.model)
        per_in = per_in if per_in is not None else _per_million(listed.get("input_cost_per_token"))
        per_out = per_out if per_out is not None else _per_million(listed.get("output_cost_per_token"))
    if spec.model.startswith("world:"):
        per_in, per_out = per_in or 0.0, per_out or 0.0
    known = per_in is not None and per_out is not None
    share = _BATCH_SHARE if spec.execution == "batch" else 1.0
    return Price((per_in or 0.0) * share, (per_out or 0.0) * share, known)


def _per_million(per_token: object) -> float | None:
    return per_token * 1e6 if isinstance(per_token, int | float) else None


def _listed(model: str) -> dict[str, Any]:
    prices = _price_list()
    return prices.get(model) or prices.get(model.partition("/")[2]) or {}


@lru_cache(maxsize=1)
def _price_list() -> dict[str, dict[str, Any]]:
    """LiteLLM's list read as a file: importing LiteLLM takes seconds."""
    found = find_spec("litellm")
    if found is None or found.origin is None:
        return {}
    path = Path(found.origin).parent / _LIST
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, Any]])
    except (OSError, msgspec.DecodeError):
        return {}
