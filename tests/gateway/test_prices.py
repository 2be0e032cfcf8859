"""Prices: found under the spellings that providers use, equal to what LiteLLM's own map says."""

from __future__ import annotations

import json

import pytest

from gateway.extract_prices import TABLE, extract, price_row
from gateway.prices import Price, Prices, read_table


def test_the_table_is_what_the_installed_litellm_says() -> None:
    assert TABLE.read_text(encoding="utf-8") == extract(), "run python -m gateway.extract_prices"


def test_spellings() -> None:
    prices = Prices({"gpt-4o-mini": Price(0.15, 0.6), "claude-x": Price(3, 15), "azure/gpt-4o": Price(2, 8)})
    assert prices.of("gpt-4o-mini") == Price(0.15, 0.6)
    assert prices.of("gpt-4o-mini-2024-07-18") == Price(0.15, 0.6)
    assert prices.of("openai/gpt-4o-mini") == Price(0.15, 0.6)
    assert prices.of("bedrock/anthropic/claude-x@20250101") == Price(3, 15)
    assert prices.of("nothing", "claude-x-latest") == Price(3, 15)
    assert prices.of("azure/gpt-4o") == Price(2, 8)
    assert prices.of("nothing") is None
    assert prices.of("") is None


def test_cost_counts_cached_and_written_tokens_once() -> None:
    price = Price(10.0, 20.0, cached=1.0, written=12.0)
    assert price.cost(1_000_000, 0) == pytest.approx(10.0)
    assert price.cost(1_000_000, 1_000_000, cached=400_000, written=100_000) == pytest.approx(5 + 0.4 + 1.2 + 20)
    assert price.cost(100, 0, cached=10_000) == pytest.approx(100 * 1.0 / 1e6)
    assert Price(10.0).cost(1_000_000, 5, cached=500_000) == pytest.approx(10.0)


def test_known_models_are_priced() -> None:
    table = read_table()
    assert len(table) > 1500
    assert table["gpt-4o-mini"] == Price(0.15, 0.6, 0.075)
    assert json.loads(TABLE.read_text())["origin"].startswith("LiteLLM")


def test_what_is_not_priced_by_token_is_left_out() -> None:
    assert price_row({"mode": "image_generation", "input_cost_per_token": 1}) is None
    assert price_row({"mode": "chat"}) is None
    assert price_row({"mode": "chat", "input_cost_per_token": 0.0, "output_cost_per_token": 0.0}) is None
    assert price_row({"mode": "embedding", "input_cost_per_token": 2e-8}) == [0.02, 0.0]


def test_names_of_any_length_are_not_remembered() -> None:
    prices = Prices({"gpt-x": Price(1.0)})
    assert prices.of("x" * 1_000_000, "gpt-x") is None
    assert prices.of("nobody-knows", "gpt-x") == Price(1.0)
