"""The command line end to end, against a real endpoint in another process: exit codes, JSON, kill and resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from optimizer import cli
from tests.optimizer.tasks.test_tasks import folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The benchmark's stub endpoint: always answers A, writes a new prompt each time."""
    command = [sys.executable, str(ROOT / "benchmarks" / "stub_endpoint.py"), "--delay", "0.002"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        server.terminate()


@pytest.fixture
def file(tmp_path: Path, address: str) -> Path:
    for name in ("one", "two", "three"):
        rows = {
            split: [
                {"id": f"{split}{i}", "question": f"{name} {split} number {i} of a kind {i * i}", "answer": "AB"[i % 2]}
                for i in range(n)
            ]
            for split, n in (("train", 60), ("test", 60))
        }
        told = {"task": name, "labels": ["A", "B"], "initial_prompt": "Letter? {question} <answer>"}
        folder(tmp_path / name, task=told, train=rows["train"], test=rows["test"])
    path = tmp_path / "search.yaml"
    path.write_text(
        "seed: You are a helpful assistant.\n"
        "models:\n"
        f"  base: {{model: base, api_base: '{address}', concurrency: 16}}\n"
        f"  optimizer: {{model: optimizer, api_base: '{address}', concurrency: 16}}\n"
        "tasks: [{path: one}, {path: two}, {path: three, role: unseen}]\n"
        "sizes: {iterations: 1, user_candidates: 2, user_keep: 2, system_candidates: 3, train_size: 10,"
        " test_size: 20}\n"
        f"home: {tmp_path / 'home'}\n"
    )
    return path


def invoke(command: Any, *arguments: object) -> Any:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_estimate_and_faithful_search_agree(file: Path) -> None:
    predicted = json.loads(invoke(cli.estimate, file, "--faithful", "--json").stdout)
    assert predicted["base_calls"] == 20 * (1 + 2 + 3 * 2) + 40 * 2
    done = invoke(cli.search, file, "--faithful", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["ledger"]["roles"]["base"]["requested"] == predicted["base_calls"]
    assert result["ledger"]["roles"]["optimizer"]["requested"] == predicted["optimizer_calls"] == 2 * (2 * 2 + 3)
    assert result["method"] == "metaspo"
    assert "generation: " in done.stderr


@pytest.mark.parametrize("method", ["default", "cot", "service", "empty", "repeat", "one_shot", "constant"])
def test_every_baseline_runs(file: Path, method: str) -> None:
    done = invoke(cli.search, file, "--method", method, "--budget-calls", 2000, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["winner"]["holdout"]["score"] == pytest.approx(0.5, abs=0.1)
    assert result["winner"]["unseen"]["n"] > 0
    assert result["constant_baseline"].keys() == {"one", "two", "three"}


@pytest.mark.parametrize(
    "method", ["metaspo", "outer_loop", "metaspo_ape", "metaspo_evo", "protegi", "ape", "sprig", "gepa"]
)
def test_every_searching_method_runs_on_the_same_path(file: Path, method: str) -> None:
    if method == "gepa":
        pytest.importorskip("gepa")
    done = invoke(cli.search, file, "--method", method, "--budget-calls", 1500, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    roles = result["ledger"]["roles"]
    assert result["method"] == method
    assert roles["base"]["paid"] > 0
    assert sum(row["paid"] for row in roles.values()) <= 1500
    if method not in ("metaspo", "sprig"):  # the stub answers alike whatever the prompt: our search sees it and stops
        assert roles["optimizer"]["paid"] > 0
    if method in ("protegi", "ape"):
        assert result["user_prompts"].keys() == {"one", "two"}


def test_the_default_search_ends_with_a_page(file: Path) -> None:
    done = invoke(cli.search, file, "--budget-calls", 1500)
    assert done.exit_code == 0, done.output
    for words in ("Method metaspo:", "incumbent", "holdout", "Gate:", "Wall time:", "constant answer"):
        assert words in done.stdout
    again = invoke(cli.search, file, "--budget-calls", 1500, "--resume", "--json")
    assert json.loads(again.stdout)["ledger"]["roles"]["base"]["replayed"] > 0


def test_a_killed_search_resumes_to_the_same_result(file: Path, tmp_path: Path) -> None:
    def command(home: Path, *more: str) -> list[str]:
        line = "from optimizer.cli import search; search()"
        options = ["--method", "default", "--budget-calls", "900", "--json", "--home", str(home), *more]
        return [sys.executable, "-c", line, str(file), *options]

    def paid(home: Path) -> int:
        return sum(path.stat().st_size for path in home.glob("*.journal*")) if home.exists() else 0

    home = tmp_path / "killed"
    with subprocess.Popen(command(home), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as victim:
        while paid(home) < 90_000 and victim.poll() is None:
            time.sleep(0.005)
        os.kill(victim.pid, signal.SIGKILL)
    refused = subprocess.run(command(home), cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    assert "--resume" in refused.stderr
    resumed = subprocess.run(command(home, "--resume"), cwd=ROOT, capture_output=True, text=True, timeout=60)
    whole = subprocess.run(command(tmp_path / "whole"), cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert resumed.returncode == 0, resumed.stderr
    first, second = json.loads(resumed.stdout), json.loads(whole.stdout)
    assert first["ledger"]["roles"]["base"]["replayed"] > 0
    for key in ("winner", "incumbent", "constant_baseline", "per_item", "reason", "calls"):
        assert first[key] == second[key]


def test_ctrl_c_says_how_to_go_on(file: Path, tmp_path: Path) -> None:
    line = "from optimizer.cli import search; search()"
    options = ["--method", "default", "--budget-calls", "2000", "--home", str(tmp_path / "stopped")]
    with subprocess.Popen(
        [sys.executable, "-c", line, str(file), *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as victim:
        while not list((tmp_path / "stopped").glob("*.journal")) and victim.poll() is None:
            time.sleep(0.002)
        time.sleep(0.05)
        victim.send_signal(signal.SIGINT)
        _, told = victim.communicate(timeout=30)
    assert victim.returncode == 1
    assert "go on with the same command and --resume" in told
    assert "Traceback" not in told


def test_failures_are_one_sentence(file: Path, tmp_path: Path) -> None:
    assert invoke(cli.search, tmp_path / "nowhere.yaml").exit_code == 2
    assert invoke(cli.search, file, "--method", "magic").exit_code == 2
    assert invoke(cli.search, file, "--budget-calls", 0).exit_code == 2
    broken = tmp_path / "broken.yaml"
    broken.write_text(file.read_text().replace("seed:", "sead:"))
    done = invoke(cli.estimate, broken)
    assert done.exit_code == 1
    assert "Did you mean 'seed'?" in done.output
    dead = tmp_path / "dead.yaml"
    dead.write_text(
        file.read_text().replace(
            "base: {model: base, api_base: 'http://127.0.0.1:", "base: {model: base, api_base: 'http://127.0.0.1:1"
        )
    )
    done = invoke(cli.search, dead, "--method", "empty")
    assert done.exit_code == 1
    assert len(done.output.strip().splitlines()[-1]) < 400
    assert "Traceback" not in done.output


def test_simulations_are_found_by_name() -> None:
    assert invoke(cli.simulate, "--help").exit_code == 0
    assert invoke(cli.simulate, "weather").exit_code == 2
