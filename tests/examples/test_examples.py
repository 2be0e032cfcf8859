"""The examples, run as they stand against a real gateway process: unmodified clients, an answer each."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from provider import WORDS, provider

from tests.deciding import BETTER, OLD, WORSE, deciding, write_repository

EXAMPLES = Path(__file__).parents[2] / "examples"
KEY = "example-caller-key"
PROMPT = "You answer in one short sentence."
SENTENCE = "".join(WORDS)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    home = tmp_path_factory.mktemp("examples")
    with provider() as (upstream, seen):
        config = home / "metaspo.yaml"
        port = _free_port()
        upstreams = [
            {"name": "openai", "dialect": "openai", "base_url": f"{upstream}/v1", "api_key": "sk-upstream"},
            {"name": "claude", "dialect": "anthropic", "base_url": upstream, "api_key": "sk-upstream"},
        ]
        config.write_text(
            yaml.safe_dump(
                {
                    "home": str(home),
                    "listen": f"127.0.0.1:{port}",
                    "upstreams": upstreams,
                    "keys": [{"name": "app", "role": "caller", "key": KEY, "domain": "support"}],
                    "domains": {"support": {"system_prompt": PROMPT}},
                }
            )
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "metaspo", "--config", str(config), "gateway", "serve"],
            cwd=EXAMPLES.parent,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            _until_injecting(url, process, seen)
            yield url, seen
        finally:
            process.terminate()
            process.communicate(timeout=20)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _until_injecting(url: str, process: subprocess.Popen[bytes], seen: list[dict[str, Any]]) -> None:
    """Wait until version 1 is served and the API answers: both take a moment after the first answer."""
    ask = urllib.request.Request(
        f"{url}/v1/chat/completions",
        data=b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}',
        headers={"authorization": f"Bearer {KEY}", "content-type": "application/json"},
    )
    for _ in range(300):
        try:
            with urllib.request.urlopen(ask, timeout=5):
                pass
            if seen and seen[-1]["messages"][0]["role"] == "system":
                return
        except (urllib.error.URLError, ConnectionError):
            assert process.poll() is None, (process.stderr or sys.stdin).read()
        time.sleep(0.05)
    raise AssertionError("the gateway never injected the prompt")


def run(command: list[str], url: str, **more: str) -> str:
    """Run an example and return what it printed; its error output is the failure's message."""
    environment = {**os.environ, "METASPO_URL": url, "METASPO_KEY": KEY, **more}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_openai_sdk(gateway: tuple[str, list[dict[str, Any]]]) -> None:
    url, seen = gateway
    said = run([sys.executable, str(EXAMPLES / "openai_sdk.py")], url)
    assert f"answer:  {SENTENCE}" in said
    assert f"stream:  {SENTENCE}" in said
    assert "served:  support version 1" in said
    assert "feedback: 202" in said
    assert seen[-1]["messages"][0] == {"role": "system", "content": PROMPT}


def test_anthropic_sdk(gateway: tuple[str, list[dict[str, Any]]]) -> None:
    url, seen = gateway
    said = run([sys.executable, str(EXAMPLES / "anthropic_sdk.py")], url)
    assert said.count(SENTENCE) == 2
    assert seen[-1]["system"] == PROMPT


@pytest.mark.skipif(importlib.util.find_spec("langchain_openai") is None, reason="langchain-openai is not installed")
def test_langchain(gateway: tuple[str, list[dict[str, Any]]]) -> None:
    said = run([sys.executable, str(EXAMPLES / "langchain_app.py")], gateway[0])
    assert said.count(SENTENCE) == 2


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(gateway: tuple[str, list[dict[str, Any]]]) -> None:
    said = run(["sh", str(EXAMPLES / "curl.sh")], gateway[0])
    assert SENTENCE in said
    assert "x-metaspo-version: 1" in said
    assert '"joined"' in said


@pytest.mark.parametrize("name", ["openai", "vercel_ai"])
@pytest.mark.skipif(
    shutil.which("node") is None or not (EXAMPLES / "node" / "node_modules").is_dir(),
    reason="Node's packages are not installed (npm ci in examples/node)",
)
def test_node(gateway: tuple[str, list[dict[str, Any]]], name: str) -> None:
    said = run(["node", str(EXAMPLES / "node" / f"{name}.mjs")], gateway[0])
    assert said.count(SENTENCE) == 2


def test_prompts_are_checked_and_imported_in_ci(tmp_path: Path) -> None:
    """The steps of the workflow, as they stand: a broken file and a prompt that fails the gate stop the pull request, a
    merge makes versions once."""
    with deciding() as model:
        write_repository(tmp_path / "gate", model)
        _prompts_in_ci(tmp_path)


def _prompts_in_ci(tmp_path: Path) -> None:
    from registry import EmbeddedRedis

    workflow = yaml.safe_load((EXAMPLES / "ci" / "prompts.yml").read_text())
    steps = {name: [s["run"] for s in job["steps"] if "run" in s] for name, job in workflow["jobs"].items()}
    command = tmp_path / "bin" / "metaspo"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{EXAMPLES.parent / "metaspo.py"}" "$@"\n')
    command.chmod(0o755)
    upstreams = [{"name": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": "sk-upstream"}]
    (tmp_path / "metaspo.yaml").write_text(yaml.safe_dump({"upstreams": upstreams}))
    redis = EmbeddedRedis.start(tmp_path / "home")
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("METASPO_")},
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "METASPO_REDIS_URL": redis.url,
        "METASPO_HOME": str(tmp_path / "home"),
        "METASPO_SIGNING_KEY": str(tmp_path / ".signing.key"),
        "GITHUB_SHA": "abc123",
    }

    def shell(script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-e", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=90,
            check=False,
        )  # fmt: skip

    try:
        (tmp_path / "prompts").mkdir()
        done = shell(
            f"metaspo keys signing-key .signing.key; metaspo domains set support; echo {OLD} > one.txt;"
            "metaspo prompts add support --file one.txt; metaspo prompts promote support 1 --why first;"
            "metaspo prompts export support --file prompts/support.yaml"
        )
        assert done.returncode == 0, done.stdout + done.stderr
        environment["SIGNING_KEY"] = (tmp_path / ".signing.key").read_text()
        exported = yaml.safe_load((tmp_path / "prompts" / "support.yaml").read_text())
        exported["versions"].append({"system_prompt": WORSE})
        (tmp_path / "prompts" / "support.yaml").write_text(yaml.safe_dump(exported))
        check, gate = steps["check"]
        assert shell(check).returncode == 0
        done = shell(gate)
        assert done.returncode == 1
        assert "Gate: FAIL" in done.stdout
        shutil.rmtree(tmp_path / "gate" / "home")  # as fresh rows in every test.jsonl would
        exported["versions"][-1] = {"system_prompt": BETTER}
        (tmp_path / "prompts" / "support.yaml").write_text(yaml.safe_dump(exported))
        for script in [*steps["check"], *steps["import"], *steps["import"]]:
            done = shell(script)
            assert done.returncode == 0, script + done.stdout + done.stderr
        listed = shell("metaspo prompts list support")
        assert listed.stdout.count(BETTER[:20]) == 1, listed.stdout
        (tmp_path / "prompts" / "broken.yaml").write_text("versions: 7\n")
        done = shell(check)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
    finally:
        redis.stop()
