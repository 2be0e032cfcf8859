"""The compose file's services, where no container engine is at hand: the same commands with the same environment as
processes, and the same smoke test that one would run against the containers."""

from __future__ import annotations

import http.client
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

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
    allowed = "METASPO_GATEWAY_FORWARDED_ALLOW"
    inside[allowed] = inside[allowed].replace("172.16.0.0/12", "127.0.0.1")  # where the containers' nginx is
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


@pytest.fixture
def front(parts: list[Part], tmp_path: Path) -> Iterator[int]:
    """The compose file's nginx with its own configuration before both gateways; its port."""
    ports = [p.port for p in parts if p.name == "gateway"]
    for gateway in ports:
        until("it is ready", lambda gateway=gateway: ask(f"http://127.0.0.1:{gateway}/readyz", CALLER)[0] == 200)
    port = free_port()
    told = (ROOT / "deploy" / "nginx" / "gateway.conf").read_text()
    both = " ".join(f"server 127.0.0.1:{gateway} max_fails=0;" for gateway in ports)
    told = told.replace("server gateway:8080 max_fails=0;", both).replace("listen 8080;", f"listen 127.0.0.1:{port};")
    folders = " ".join(
        f"{name}_temp_path {tmp_path / name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path / 'pid'}; error_log {tmp_path / 'error.log'};\nevents {{}}\n"
        f"http {{ access_log off; {folders}\n{told} }}\n"
    )
    command = ["nginx", "-e", str(tmp_path / "error.log"), "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until("nginx answers", lambda: ask(f"http://127.0.0.1:{port}/readyz", CALLER)[0] == 200, seconds=20)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=20)


needs_nginx = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed (apt-get install nginx)")


@needs_nginx
def test_one_port_before_both_replicas_says_whether_the_outside_is_tls(front: int) -> None:
    """A TLS proxy before nginx is believed; without one the cookie stays usable over plain HTTP."""
    assert "; Secure" in signed_in(front, **{"x-forwarded-proto": "https", "x-forwarded-for": "203.0.113.9"})
    assert "; Secure" not in signed_in(front)
    assert "; Secure" not in signed_in(front, **{"x-forwarded-proto": "http"})


def signed_in(port: int, **headers: str) -> str:
    """The cookie of a sign-in at this port."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    told = {"content-type": "application/x-www-form-urlencoded", **headers}
    connection.request("POST", "/console/sign-in", urlencode({"key": OPERATOR}), told)
    answer = connection.getresponse()
    assert answer.status == 303, answer.read()
    connection.close()
    return answer.headers["set-cookie"]


@needs_nginx
def test_a_stream_passes_the_front_as_it_comes(front: int) -> None:
    body = {"model": "gpt-4o-mini", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    status, head, text = ask(f"http://127.0.0.1:{front}/v1/chat/completions", CALLER, body)
    assert status == 200
    assert head["content-type"].startswith("text/event-stream")
    assert text.count("data: ") >= len(WORDS)
    assert text.rstrip().endswith("data: [DONE]")
