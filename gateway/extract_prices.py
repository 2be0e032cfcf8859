"""Writes ``gateway/prices.json`` from the price map in the installed LiteLLM wheel (MIT), without importing LiteLLM.

Run it after an upgrade of LiteLLM: ``python -m gateway.extract_prices``. Kept are models that are priced by token;
prices are US dollars per million tokens: ``[input, output, cached input, cache write]``, trailing blanks left out.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("prices.json")
_MAP = "model_prices_and_context_window_backup.json"
_MODES = frozenset({"chat", "responses", "completion", "embedding"})
_FIELDS = (
    "input_cost_per_token",
    "output_cost_per_token",
    "cache_read_input_token_cost",
    "cache_creation_input_token_cost",
)


def price_row(entry: dict[str, Any]) -> list[float | None] | None:
    """The four prices of one model of LiteLLM's map, or None where it is not priced by token."""
    if entry.get("mode") not in _MODES or not isinstance(entry.get("input_cost_per_token"), int | float):
        return None
    values = [entry.get(field) for field in _FIELDS]
    row = [round(value * 1e6, 6) if isinstance(value, int | float) else None for value in values]
    row[1] = row[1] or 0.0
    while row and row[-1] is None:
        row.pop()
    return row if any(row) else None


def extract() -> str:
    """The table as JSON text: one model a line, sorted, so that an upgrade shows as a readable diff."""
    spec = find_spec("litellm")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("LiteLLM is not installed: run `make dev` first")
    source = Path(spec.submodule_search_locations[0]) / _MAP
    rows = {name: row for name, entry in json.loads(source.read_bytes()).items() if (row := price_row(entry))}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(rows.items()))
    origin = f"LiteLLM {version('litellm')} (MIT licence), US dollars per million tokens"
    return f'{{"origin": {json.dumps(origin)},\n"models": {{\n{lines}\n}}}}\n'


if __name__ == "__main__":
    TABLE.write_text(extract(), encoding="utf-8")
