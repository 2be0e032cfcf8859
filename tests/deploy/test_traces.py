"""The how-to of OpenTelemetry, done: a gateway process with its variables, and a collector that OTLP is posted to."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from house import ROOT, ask, free_port, running, until

sys.path.insert(0, str(ROOT / "tests" / "examples"))
from provider import provider

from registry import EmbeddedRedis

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra otel is not installed")
service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

CALLER, SECRET = "trace-caller-key", "my cat is called Mimi"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """A collector of OTLP over HTTP: its address, and the requests it was sent, decoded."""
    received: list[Any] = []

    class Collect(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert (self.path, self.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
            received.append(service.ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collect)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", received
    finally:
        server.shutdown()
        server.server_close()


def value(any_value: Any) -> Any:
    return getattr(any_value, any_value.WhichOneof("value"))


def test_an_exchange_arrives_at_the_collector_as_one_span(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with collector() as (address, received), provider() as (upstream, _), EmbeddedRedis.start(tmp_path) as redis:
        told = {
            "home": str(tmp_path),
            "listen": f"127.0.0.1:{port}",
            "upstreams": [{"name": "local", "base_url": f"{upstream}/v1"}],
            "keys": [{"name": "app", "role": "caller", "key": CALLER, "domain": "support"}],
            "domains": {"support": {"system_prompt": "You are brief."}},
        }
        (tmp_path / "metaspo.yaml").write_text(yaml.safe_dump(told))
        environment = {
            "METASPO_CONFIG": str(tmp_path / "metaspo.yaml"),
            "METASPO_REDIS_URL": redis.url,
            "METASPO_GATEWAY_OTEL": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": address,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test",
        }
        with running([(["gateway", "serve"], environment)], tmp_path / "log"):
            until("the gateway is ready", lambda: ask(f"{url}/readyz", CALLER)[0] == 200)
            body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": SECRET}]}
            status, head, _ = ask(f"{url}/v1/chat/completions", CALLER, body, traceparent=f"00-{TRACE}-{PARENT}-01")
            assert status == 200
            until("the span has come", lambda: bool(received), seconds=20)
        (resources,) = received[0].resource_spans
        named = {a.key: value(a.value) for a in resources.resource.attributes}
        assert (named["service.name"], named["deployment.environment"]) == ("metaspo-gateway", "test")
        spans = [
            span for request in received for r in request.resource_spans for s in r.scope_spans for span in s.spans
        ]
        (span,) = spans
        assert span.name == "chat gpt-4o-mini"
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
        assert span.start_time_unix_nano < span.end_time_unix_nano
        assert [event.name for event in span.events] == ["sent_upstream", "first_token"]
        said = {a.key: value(a.value) for a in span.attributes}
        assert said["gen_ai.operation.name"] == "chat"
        assert said["http.response.status_code"] == 200
        assert said["metaspo.version"] == int(head["x-metaspo-version"]) == 1
        assert head["x-metaspo-exchange"].startswith(said["metaspo.exchange"])
        assert SECRET not in str(received)
        assert "You are brief" not in str(received)


def test_a_collector_that_is_away_holds_up_nobody(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with provider() as (upstream, _), EmbeddedRedis.start(tmp_path) as redis:
        environment = {
            "METASPO_HOME": str(tmp_path),
            "METASPO_LISTEN": f"127.0.0.1:{port}",
            "METASPO_REDIS_URL": redis.url,
            "METASPO_UPSTREAMS": f"[{{name: local, base_url: '{upstream}/v1'}}]",
            "METASPO_KEYS": f"[{{name: app, role: caller, key: {CALLER}}}]",
            "METASPO_GATEWAY_OTEL": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        with running([(["gateway", "serve"], environment)], tmp_path / "log"):
            until("the gateway is ready", lambda: ask(f"{url}/readyz", CALLER)[0] == 200)
            body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
            assert [ask(f"{url}/v1/chat/completions", CALLER, body)[0] for _ in range(5)] == [200] * 5


@pytest.mark.parametrize("workers", ["1", "2"])
def test_without_the_packages_the_gateway_says_which_to_install(tmp_path: Path, workers: str) -> None:
    """A folder before the installed packages whose ``opentelemetry.sdk`` cannot be imported."""
    hidden = tmp_path / "hidden" / "opentelemetry"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('not installed')\n")
    environment = {
        **os.environ,
        "PYTHONPATH": str(hidden.parent),
        "METASPO_HOME": str(tmp_path),
        "METASPO_LISTEN": f"127.0.0.1:{free_port()}",
        "METASPO_UPSTREAMS": "[{name: local, base_url: 'http://127.0.0.1:9/v1'}]",
        "METASPO_REDIS_URL": "redis://127.0.0.1:9/0",
        "METASPO_GATEWAY_OTEL": "true",
    }
    done = subprocess.run(
        [sys.executable, str(ROOT / "metaspo.py"), "gateway", "serve", "--workers", workers],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http" in done.stderr
    assert "Traceback" not in done.stderr
