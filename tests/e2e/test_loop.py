"""The whole loop with real processes: traffic, search, approval, canary, promotion, harm, rollback; and three kills.

A stub upstream answers over HTTP; gateway, two workers, scheduler and embedded Redis are the product's own processes. A
worker, the scheduler and Redis are each killed once on the way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.app import APP, OPS, App, Ask
from tests.e2e.house import House
from tests.e2e.story import Cast, tell
from tests.jobs.conftest import review
from tests.jobs.stub_model import StubModel

TASKS = ("products", "restaurants", "hotels")
HARMFUL = "You are a helpful assistant. HARM"


def _asks(number: int) -> Ask:
    task = TASKS[number % len(TASKS)]
    text, label = review(number // len(TASKS), task)
    return Ask(task, f"Review:\n{text}", label)


def _config(upstream: str) -> dict[str, Any]:
    task = {
        "user_prompt": "Review:\n{question}",
        "judge": {"kind": "choice", "labels": ["positive", "negative"], "lenient": True},
    }
    return {
        "upstreams": [{"name": "stub", "base_url": upstream, "api_key": "k"}],
        "models": [{"name": "base", "upstream": "stub"}],
        "keys": [
            {"name": "app", "role": "caller", "key": APP, "domain": "shop"},
            {"name": "ops", "role": "operator", "key": OPS},
        ],
        "domains": {
            "shop": {
                "system_prompt": "You are a helpful assistant.",
                "sample": {"share": 1.0, "per_hour": 100_000},
                "base_model": "base",
                "schedule": "* * * * *",
                "budget": {"calls": 2000},
                "promotion": "auto",
                "canary": {"stages": [0.2, 0.5], "dwell_hours": [0.0005, 0.0005], "n_final": 200, "margin": 0.2},
                "tasks": dict.fromkeys(TASKS, task),
            }
        },
        "gateway": {"sample_per_key_share": 1.0},
        "jobs": {"lease_seconds": 3.0, "judge_every_minutes": 0.03, "canary_every_seconds": 1.0, "calls_in_flight": 4},
    }  # fmt: skip


CAST = Cast(
    asks=750, referenced=550, before=(), under_way=200, wave=100, waves=12, harmful=HARMFUL, finalist=None, patience=120
)


@pytest.mark.timeout(600)  # half a minute of work; a crowded machine may give it little of its time
async def test_from_live_traffic_to_a_promoted_prompt_and_back_when_it_harms(tmp_path: Path, free_port: int) -> None:
    async with (
        StubModel() as model,
        House(tmp_path, _config(model.url), free_port) as house,
        aiohttp.ClientSession() as http,
    ):
        run = await tell(house, App(house, http, _asks), model, CAST)
        assert run.version == 2, run.reason
