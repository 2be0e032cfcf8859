"""What the demo does after a gate that passed, on a real gateway with an echo for a model."""

from __future__ import annotations

import json
import time
from pathlib import Path
from urllib.parse import urlsplit

import metaspo as front_door
from demo import stage, summary
from demo.app import Row
from demo.show import Show
from demo.stage import SIZES
from demo.story import bring_to_traffic, conclude, roll_back
from demo.telling import told_on
from registry import load_settings

BETTER = {"score": 0.9, "low": 0.85, "high": 0.95, "n": 150}
WORSE = {"score": 0.7, "low": 0.62, "high": 0.77, "n": 150}


def measured(mean: dict[str, float]) -> dict[str, object]:
    tasks = {"food": {"interval": mean, "malformed": 0.0}}
    return {
        "holdout": {"mean": mean, "tasks": tasks},
        "unseen": {"mean": mean, "tasks": {"movies": {"interval": mean}}},
    }


def test_a_passed_gate_leads_to_canary_promotion_and_back(tmp_path: Path, upstream: str, free_port: int) -> None:
    weights = tmp_path / "echo.gguf"
    weights.write_bytes(b"not read")
    models = [stage.LocalModel("base", "base-1", "echo", weights, urlsplit(upstream).port or 0, 4, 1024)]
    keys = stage.keys_of(tmp_path)
    config = stage.write_config(tmp_path, stage.config_of(models, SIZES["full"], f"127.0.0.1:{free_port}"))
    said: list[str] = []
    with (
        front_door.house(load_settings(config, {}), say=said.append, config=config) as house,
        told_on(tmp_path, SIZES["full"], models, keys, Show(), house, {}, time.monotonic()) as telling,
    ):
        version = telling.operator.add_version("Answer with one word.", "a test")
        run = {
            "id": "run-1",
            "version": version,
            "incumbent": 1,
            "gate": {"outcome": "PASS", "reason": "Better by +0.200.", "table": [{"name": "cost", "passed": None}]},
            "result": {
                "winner": "Answer with one word.",
                "proposer": "components",
                "incumbent_scores": measured(WORSE),
                "winner_scores": measured(BETTER),
                "constant_baseline": {"products": 0.5, "food": 0.6, "service": 0.7, "movies": 0.5},
            },
            "calls": {"base": 1000},
        }
        bring_to_traffic(telling, run)
        assert telling.operator.deployment()["stable"] == version == 2
        assert telling.app.ask(stage_row(), "customer-1").reply == "Answer with one word."
        roll_back(telling)
        final = conclude(telling, run)
    # The jobs look at a running canary beside it; how often depends on how long the demo's canary takes.
    kinds = [entry["kind"] for entry in final["audit"] if entry["actor"] == "operator"]
    assert kinds[-4:] == ["version", "canary", "promote", "rollback"]
    assert final["promoted_by"] == "operator"
    assert final["winner"]["version"] == 2
    assert final["winner"]["holdout"] == BETTER
    assert final["incumbent"]["unseen"] == WORSE
    assert final["incumbent"]["system_prompt"] == stage.FIRST_PROMPT
    assert final["constant_baseline"]["holdout"] == 0.6
    assert final["calls"]["traffic"] == SIZES["full"].canary + 1
    assert json.loads((tmp_path / "summary.json").read_text()) == final
    page = summary.page(final)
    assert "0.700 (0.620..0.770) n=150" in page
    assert "finalist = version 2" in page
    assert "gate rules without evidence in this run: cost" in page
    assert len(page.splitlines()) < 60, "one page"


def stage_row() -> Row:
    return Row("row", "food", "Tasty.", "positive")
