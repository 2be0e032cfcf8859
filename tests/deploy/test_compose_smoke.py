"""The compose file's services, where no container engine is at hand: the same commands with the same environment as
processes, and the same smoke test that one would run against the containers."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from house import ROOT, ask, free_port, running, until

sys.path.insert(0, str(ROOT / "tests" / "examples"))
from provider import WORDS, provider

from registry import EmbeddedRedis

CALLER, OPERATOR = "smoke-app-key", "smoke-ops-key"
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
OURS = ("gateway", "gateway", "worker", "scheduler")
"""As many of each as the compose file starts."""


class Part(NamedTuple):
    """One service: its command and environment with this machine's addresses in place of the containers'."""

    name: str
    port: int
    command: list[str]
    environment: dict[str, str]


def part(name: str, home: Path, redis_url: str, upstream: str) -> Part:
    service = SERVICES[name]
    port = free_port()
    inside = {
        **service["environment"],
        "METASPO_CONFIG": str(ROOT / "deploy" / "metaspo.yaml"),  # the image says /etc/metaspo/metaspo.yaml
        "METASPO_HOME": str(home),  # the image says /var/lib/metaspo
        "OPENAI_API_KEY": "sk-smoke", "APP_KEY": CALLER, "OPS_KEY": OPERATOR,  # .env
        "METASPO_REDIS_URL": redis_url,
        "METASPO_SIGNING_KEY": str(home.parent / "signing.key"),
        "METASPO_UPSTREAMS": f"[{{name: openai, dialect: openai, base_url: '{upstream}/v1'}}]",
        "METASPO_LISTEN": f"127.0.0.1:{port}",
    }  # fmt: skip
    command = [re.sub(r"0\.0\.0\.0:\d+", f"127.0.0.1:{port}", word) for word in service["command"]]
    return Part(name, port, command, inside)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Part]]:
    home = tmp_path_factory.mktemp("compose")
    redis = EmbeddedRedis.start(home / "redis")
    with provider() as (upstream, _):
        found = [part(name, home / f"{name}{i}", redis.url, upstream) for i, name in enumerate(OURS)]
        for one in found:
            Path(one.environment["METASPO_HOME"]).mkdir(exist_ok=True)
        try:
            with running([(p.command, p.environment) for p in found], home / "log"):
                yield found
        finally:
            redis.stop()


def test_every_service_becomes_healthy_by_its_own_check(parts: list[Part]) -> None:
    for one in parts:
        _, _, flag, code = SERVICES[one.name]["healthcheck"]["test"]
        code = re.sub(r"127\.0\.0\.1:\d+", f"127.0.0.1:{one.port}", code)

        def healthy(code: str = code, flag: str = flag) -> bool:
            return subprocess.run([sys.executable, flag, code], capture_output=True, check=False).returncode == 0

        until(f"{one.name} is healthy", healthy)


def test_both_replicas_serve_and_see_the_same_move(parts: list[Part]) -> None:
    gateways = [f"http://127.0.0.1:{p.port}" for p in parts if p.name == "gateway"]
    question: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
    for url in gateways:
        until("it is ready", lambda url=url: ask(f"{url}/readyz", CALLER)[0] == 200)
        status, head, answer = ask(f"{url}/v1/chat/completions", CALLER, question, **{"x-metaspo-domain": "support"})
        assert status == 200, answer
        assert answer["choices"][0]["message"]["content"] == "".join(WORDS)
        assert head["x-metaspo-version"] == "1"
    api = f"{gateways[0]}/api/domains/support"
    _, _, added = ask(f"{api}/versions", OPERATOR, {"system_prompt": "You are a brief assistant."})
    assert ask(f"{api}/promote", OPERATOR, {"version": added["version"], "why": "smoke"})[0] == 200

    def everywhere() -> bool:
        asked = [ask(f"{url}/v1/chat/completions", CALLER, question)[1] for url in gateways]
        return [head["x-metaspo-version"] for head in asked] == [str(added["version"])] * 2

    assert until("both serve the new version", everywhere) < 5
    for url in gateways:
        assert ask(f"{url}/console/sign-in", "")[0] == 200
