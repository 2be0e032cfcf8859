"""The numbers: cheap to count, bounded in labels, added up over workers, and named as dashboards know them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from control_house import NOW, House
from prometheus_client.parser import text_string_to_metric_families

from gateway.exchange import Exchange, Target, Usage
from gateway.metric_names import FAMILIES
from gateway.metrics import MOST_UNNAMED_MODELS, GatewayMetrics
from registry import Deployment, Domain, DomainView, Snapshot

SNAPSHOT = Snapshot(
    epoch=1,
    taken_at=NOW,
    domains={
        name: DomainView(domain=Domain(name=name), deployment=Deployment(domain=name, stable=3, canary=4, share=0.1))
        for name in ("support", "billing")
    },
)
DEAD_PID = 2**22 - 1


def exchange(**more: Any) -> Exchange:
    made = Exchange("x1", "chat", NOW, 10.0)
    made.sent_at, made.first_byte_at, made.ended_at = 10.0004, 10.2, 10.5
    made.domain, made.arm, made.status, made.stream = "support", "stable", 200, True
    made.target, made.usage = Target("openai", "openai", "gpt-x"), Usage(120, 7)
    for name, value in more.items():
        setattr(made, name, value)
    return made


def made(directory: Path | None = None, **more: Any) -> GatewayMetrics:
    metrics = GatewayMetrics(directory, models=["gpt-x"], **more)
    metrics.load(SNAPSHOT)
    return metrics


def samples(metrics: GatewayMetrics, accept: str = "") -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    body, _ = metrics.render(accept)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def value(metrics: GatewayMetrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, tuple(sorted(labels.items()))]


def test_one_exchange_in_all_its_metrics() -> None:
    metrics = made()
    metrics.observe(exchange())
    about = {"gen_ai_operation_name": "chat", "gen_ai_request_model": "gpt-x", "gen_ai_provider_name": "openai"}
    assert value(metrics, "metaspo_requests_total", dialect="chat", domain="support", arm="stable", status="200") == 1
    assert value(metrics, "metaspo_overhead_seconds_bucket", dialect="chat", le="0.0005") == 1
    assert value(metrics, "metaspo_overhead_seconds_bucket", dialect="chat", le="0.0003") == 0
    assert value(metrics, "gen_ai_server_request_duration_seconds_sum", **about) == pytest.approx(0.5)
    assert value(metrics, "gen_ai_server_time_to_first_token_seconds_sum", **about) == pytest.approx(0.2)
    assert value(metrics, "gen_ai_client_token_usage_sum", gen_ai_token_type="input", **about) == 120
    assert value(metrics, "gen_ai_client_token_usage_count", gen_ai_token_type="output", **about) == 1
    assert value(metrics, "metaspo_prompt_version", domain="support", arm="canary") == 4
    assert value(metrics, "metaspo_canary_share", domain="billing") == 0.1
    assert value(metrics, "metaspo_registry_up") == 0


def test_what_callers_write_never_becomes_a_label() -> None:
    metrics = made(priced=lambda *names: names[0].startswith("priced"))
    for number in range(200):
        metrics.observe(
            exchange(target=Target("openai", "openai", f"secret-{number}"), domain=f"d{number}", status=600 + number)
        )
        metrics.observe(exchange(target=Target("openai", "openai", f"priced-{number}")))
    found = samples(metrics)
    text = str(found)
    assert "secret" not in text
    assert "d7" not in text
    models = {dict(labels).get("gen_ai_request_model") for _, labels in found}
    assert len(models) <= MOST_UNNAMED_MODELS + 3
    assert value(metrics, "metaspo_requests_total", dialect="chat", domain="other", arm="stable", status="other") == 200


def test_exchanges_that_no_budget_can_count_are_told() -> None:
    metrics = made(priced=lambda *names: "gpt-4o" in names)
    metrics.observe(exchange())  # a model of the config without a price
    metrics.observe(exchange(target=Target("openai", "openai", "gpt-x", price_in=1.0)))
    metrics.observe(exchange(target=Target("openai", "openai", "deployment-7"), model="gpt-4o"))
    metrics.observe(exchange(target=Target("openai", "openai", "what-callers-write"), model="too"))
    metrics.observe(exchange(usage=None))
    metrics.observe(exchange(usage=None, status=500))  # an error costs nothing
    told = {labels: count for (name, labels), count in samples(metrics).items() if name == "metaspo_unpriced_total"}
    assert told == {
        (("gen_ai_request_model", "gpt-x"), ("reason", "price")): 1.0,
        (("gen_ai_request_model", "other"), ("reason", "price")): 1.0,
        (("gen_ai_request_model", "gpt-x"), ("reason", "tokens")): 1.0,
    }


def test_unusual_statuses_are_grouped() -> None:
    metrics = made()
    metrics.observe(exchange(status=418))
    metrics.observe(exchange(status=529))
    assert value(metrics, "metaspo_requests_total", dialect="chat", domain="support", arm="stable", status="4xx") == 1
    assert value(metrics, "metaspo_requests_total", dialect="chat", domain="support", arm="stable", status="529") == 1


def test_a_request_that_never_went_upstream_has_no_model_metrics() -> None:
    metrics = made()
    metrics.observe(exchange(target=None, sent_at=0.0, status=401, domain="", arm="none"))
    assert value(metrics, "metaspo_requests_total", dialect="chat", domain="", arm="none", status="401") == 1
    assert not any(name.startswith("gen_ai") for name, _ in samples(metrics))


def test_workers_add_up_and_a_dead_one_still_counts(tmp_path: Path) -> None:
    one = made(tmp_path, pid=os.getpid())
    two = made(tmp_path, pid=DEAD_PID)
    one.registry_state = lambda: (0.5, True, 1)
    two.registry_state = lambda: (99.0, False, 2)
    for metrics in (one, two, two):
        metrics.observe(exchange())
        metrics.sample("support", kept=True)
        metrics.dropped("queue_full")
    two.flush()
    (tmp_path / "4711.json").write_bytes(b"{ damaged")
    labels = {"dialect": "chat", "domain": "support", "arm": "stable", "status": "200"}
    assert value(one, "metaspo_requests_total", **labels) == 3
    assert value(one, "metaspo_overhead_seconds_count", dialect="chat") == 3
    assert value(one, "metaspo_samples_total", domain="support", kept="true") == 3
    assert value(one, "metaspo_samples_dropped_total", reason="queue_full") == 3
    assert value(one, "metaspo_snapshot_refused_total") == 3
    assert value(one, "metaspo_registry_up") == 1  # gauges are of the living only
    assert value(one, "metaspo_snapshot_age_seconds") == 0.5


def test_an_age_that_is_not_known_yet_does_not_break_the_file(tmp_path: Path) -> None:
    one, two = made(tmp_path, pid=os.getpid()), made(tmp_path, pid=os.getppid())
    two.registry_state = lambda: (float("inf"), False, 0)
    two.flush()
    assert value(one, "metaspo_snapshot_age_seconds") == 1e9


async def test_the_file_is_written_in_the_background_and_at_the_end(tmp_path: Path) -> None:
    metrics = made(tmp_path)
    metrics.start()
    metrics.observe(exchange())
    await metrics.stop()
    (file,) = tmp_path.glob("*.json")
    assert "metaspo_requests_total" in file.read_text()


def test_open_metrics_when_asked_for() -> None:
    metrics = made()
    metrics.observe(exchange())
    body, content_type = metrics.render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    assert metrics.render("")[1].startswith("text/plain")


def test_every_family_is_shown_from_the_start_and_described() -> None:
    body, _ = made().render()
    for family in FAMILIES:
        name = family.name.removesuffix("_total") if family.kind == "counter" else family.name
        assert f"# HELP {name}" in body.decode(), family.name
        assert family.help.endswith(".")


def test_the_names_that_the_interface_promises() -> None:
    promised = [
        "gen_ai_server_request_duration_seconds",
        "gen_ai_server_time_to_first_token_seconds",
        "gen_ai_client_token_usage",
        "metaspo_requests_total",
        "metaspo_overhead_seconds",
        "metaspo_prompt_version",
        "metaspo_canary_share",
        "metaspo_samples_total",
        "metaspo_samples_dropped_total",
        "metaspo_snapshot_age_seconds",
        "metaspo_registry_up",
        "metaspo_promotions_total",
        "metaspo_rollbacks_total",
    ]
    assert set(promised) <= {family.name for family in FAMILIES}


async def test_metrics_may_ask_for_a_key(house: House) -> None:
    assert (await house.get("/metrics", role="")).status == 200
    house.control.metrics_key = True
    assert (await house.get("/metrics", role="")).error["code"] == "invalid_api_key"
    assert (await house.get("/metrics", role="caller")).status == 401
    assert (await house.get("/metrics", role="viewer")).status == 200
    assert (await house.ask("GET", "/metrics", role="", x_api_key=house.keys["operator"])).status == 200
