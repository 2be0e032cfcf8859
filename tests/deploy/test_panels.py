"""Every panel of every dashboard shows something: its query is asked of a real Prometheus that scrapes a running house.

The house is what `metaspo up` starts, under traffic: exchanges, feedback, a refused request, moves of the pointers, a
search that is asked for, a canary that is looked at.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator

import pytest
import yaml
from house import ROOT, ask, free_port, running, until

sys.path.insert(0, str(ROOT / "tests" / "examples"))
from provider import provider

from registry import EmbeddedRedis

pytestmark = [
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="Prometheus is not installed (apt-get install prometheus)"
    ),
    pytest.mark.timeout(170),
]
CALLER, OPERATOR = "panel-caller-key", "panel-operator-key"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    """A running house: the gateway's address, and what Prometheus is to scrape."""
    home = tmp_path_factory.mktemp("panels")
    gateway, worker, scheduler = free_port(), free_port(), free_port()
    with provider() as (upstream, _):
        task = {"judge": {"kind": "contains"}}
        settings = {
            "home": str(home),
            "listen": f"127.0.0.1:{gateway}",
            "upstreams": [{"name": "local", "base_url": f"{upstream}/v1"}],
            "models": [{"name": "gpt-4o-mini", "upstream": "local", "price_in": 0.15, "price_out": 0.6}],
            "keys": [
                {"name": "app", "role": "caller", "key": CALLER, "domain": "support"},
                {"name": "ops", "role": "operator", "key": OPERATOR},
            ],
            "domains": {
                "support": {
                    "system_prompt": "You are a helpful assistant.",
                    "base_model": "gpt-4o-mini",
                    "sample": {"share": 1.0, "per_hour": 5000},
                    "tasks": {"triage": task, "reply": task},
                }
            },
            "gateway": {"sample_per_key_share": 1.0},
            "jobs": {"judge_every_minutes": 0.03, "search_calls_per_day": 100_000, "min_tasks": 2},
        }
        config = home / "metaspo.yaml"
        config.write_text(yaml.safe_dump(settings))
        redis = EmbeddedRedis.start(home)
        environment = {"METASPO_CONFIG": str(config), "METASPO_REDIS_URL": redis.url}
        commands = [
            ["gateway", "serve", "--workers", "2"],
            ["jobs", "worker", "--metrics", f"127.0.0.1:{worker}"],
            ["jobs", "scheduler", "--metrics", f"127.0.0.1:{scheduler}"],
        ]
        url = f"http://127.0.0.1:{gateway}"
        try:
            with running([(command, environment) for command in commands], home / "log"):
                until("the gateway is ready", lambda: ask(f"{url}/readyz", CALLER)[0] == 200)
                yield url, [f"127.0.0.1:{port}" for port in (gateway, worker, scheduler)]
        finally:
            redis.stop()


def live(url: str) -> None:
    """Traffic with references, moves, a shed and a failed request, a search."""
    api = f"{url}/api/domains/support"
    for number in range(330):
        status, head, _ = ask(
            f"{url}/v1/chat/completions",
            CALLER,
            {
                "model": "gpt-4o-mini",
                "stream": number % 5 == 0,
                "messages": [{"role": "user", "content": f"Where is parcel {number * 7919} for {number * 104729}?"}],
            },
            **{"x-metaspo-task": "triage" if number % 2 else "reply", "x-metaspo-unit": f"u{number // 2}"},
        )
        assert status == 200
        said = {"exchange": head["x-metaspo-exchange"], "score": float(number % 3 > 0), "reference": "on its way"}
        assert ask(f"{url}/v1/feedback", CALLER, said)[0] == 202
    assert ask(f"{url}/v1/chat/completions", "wrong", {"model": "m", "messages": []})[0] == 401
    _, _, second = ask(f"{api}/versions", OPERATOR, {"system_prompt": "You are a helpful support assistant."})
    assert ask(f"{api}/promote", OPERATOR, {"version": second["version"], "why": "test"})[0] == 200
    assert ask(f"{api}/rollback", OPERATOR, {"why": "test"})[0] == 200
    assert ask(f"{api}/canary", OPERATOR, {"version": second["version"], "share": 0.2, "why": "test"})[0] == 200
    status, _, run = ask(f"{api}/optimize", OPERATOR, {"why": "test"})
    assert status == 202
    until("the search ends", lambda: ask(f"{url}/api/runs/{run['run']}", OPERATOR)[2]["state"] in ("done", "failed"))


@pytest.fixture(scope="module")
def prometheus(house: tuple[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that scrapes the house every second and has seen it live."""
    url, targets = house
    folder = tmp_path_factory.mktemp("prometheus")
    scrape = [{"job_name": "metaspo", "static_configs": [{"targets": targets}]}]
    (folder / "prometheus.yml").write_text(
        yaml.safe_dump({"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "scrape_configs": scrape})
    )
    port = free_port()
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        until("Prometheus is ready", lambda: ask(f"{address}/-/ready", "")[0] == 200)
        until("it has scraped", lambda: all(value(address, f'up{{instance="{t}"}}') == ["1"] for t in targets))
        live(url)
        time.sleep(8)  # a judge's and a canary's round, and scrapes after them
        yield address
    finally:
        process.terminate()
        process.wait(timeout=20)


def value(prometheus: str, query: str) -> list[str]:
    """The values of an instant query."""
    answer = ask(f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}", "")[2]
    assert answer["status"] == "success", f"{query}: {answer}"
    return [sample["value"][1] for sample in answer["data"]["result"]]


def panels() -> list[tuple[str, str, str]]:
    """(dashboard, panel, query) of every target."""
    return [
        (path.stem, panel["title"], target["expr"])
        for path in sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
        for panel in json.loads(path.read_text())["panels"]
        for target in panel["targets"]
    ]


def test_no_panel_is_empty(prometheus: str) -> None:
    empty = []
    for dashboard, panel, query in panels():
        found = value(prometheus, query.replace("$__rate_interval", "1m").replace("$domain", ".*"))
        if not [v for v in found if v != "NaN"]:
            empty.append(f"{dashboard} / {panel}: {query}")
    assert not empty, "\n".join(empty)


def test_annotations_mark_promotions_and_rollbacks(prometheus: str) -> None:
    for path in (ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"):
        for annotation in json.loads(path.read_text())["annotations"]["list"]:
            assert value(prometheus, annotation["expr"]), annotation["name"]
