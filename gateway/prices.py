"""What an exchange cost, from a table extracted at build time, so that LiteLLM need not be loaded.

Prices are US dollars per million tokens. A price in the config (``price_in``, ``price_out`` of a model route) wins over
the table: see `gateway.limits.exchange_cost`. A model that neither knows costs None, which is not zero: a budget cannot
hold what has no price.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import msgspec

_DATED = re.compile(r"(?:[-@]\d{4}-?\d{2}-?\d{2}|-latest|:latest)$")
MOST_NAME = 256
"""Characters of a model's name that a price is looked for."""
_TABLE = Path(__file__).with_name("prices.json")


class Price(NamedTuple):
    """US dollars per million tokens."""

    input: float
    output: float = 0.0
    cached: float | None = None
    """Of input tokens read from the provider's prompt cache; None: as any other input."""
    written: float | None = None
    """Of input tokens written to the provider's prompt cache; None: as any other input."""

    def cost(self, prompt_tokens: int, answer_tokens: int, cached: int = 0, written: int = 0) -> float:
        """US dollars of one exchange. ``prompt_tokens`` counts all input, the cached and the written among it."""
        cached = min(cached, prompt_tokens)
        written = min(written, prompt_tokens - cached)
        plain = prompt_tokens - cached - written
        input_cost = (
            plain * self.input
            + cached * (self.input if self.cached is None else self.cached)
            + written * (self.input if self.written is None else self.written)
        )
        return (input_cost + answer_tokens * self.output) / 1e6


class _Table(msgspec.Struct):
    origin: str
    models: dict[str, tuple[float | None, ...]]


class Prices:
    """Price by model name, from the extracted table."""

    def __init__(self, table: Mapping[str, Price] | None = None) -> None:
        self._table = read_table() if table is None else table
        self._known = lru_cache(maxsize=1024)(self._find)  # names come from callers: the memory of them is bounded

    def of(self, *names: str) -> Price | None:
        """The price under the first name that has one; give the upstream's name of the model, then the caller's."""
        for name in names:
            if len(name) > MOST_NAME:
                return None
        return self._known(*names)

    def _find(self, *names: str) -> Price | None:
        for name in names:
            for form in _forms(name):
                if form in self._table:
                    return self._table[form]
        return None


def _forms(name: str) -> Iterable[str]:
    """The spellings under which a table may know a model: as it is, undated, without its provider."""
    while True:
        yield name
        undated = _DATED.sub("", name)
        if undated != name:
            yield undated
        if "/" not in name:
            return
        name = name.split("/", 1)[1]


def read_table(path: Path = _TABLE) -> dict[str, Price]:
    """The extracted table. `msgspec.DecodeError` when the file is not one: it is part of the package."""
    table = msgspec.json.decode(path.read_bytes(), type=_Table)
    return {
        name: Price(row[0] or 0.0, (row[1] or 0.0) if len(row) > 1 else 0.0, *row[2:])
        for name, row in table.models.items()
    }
