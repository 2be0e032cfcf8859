"""Traces: one span an exchange, in the GenAI conventions' words, without content; and a clear sentence without the
extra.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest
from control_house import NOW

trace = pytest.importorskip("opentelemetry.trace", reason="OpenTelemetry's interface is not installed")

from gateway.errors import StartFailed  # noqa: E402
from gateway.exchange import Exchange, Target, Usage  # noqa: E402
from gateway.metrics import GatewayMetrics  # noqa: E402
from gateway.telemetry import Traces, tracer  # noqa: E402


class KeptSpan(trace.NonRecordingSpan):
    """A span that remembers what it was told."""

    def __init__(self, name: str, **more: Any) -> None:
        super().__init__(trace.INVALID_SPAN_CONTEXT)
        self.name, self.more = name, more
        self.moments: list[tuple[str, int]] = []
        self.status: Any = None
        self.ended = 0

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        self.moments.append((name, timestamp or 0))

    def set_status(self, status: Any, description: str | None = None) -> None:
        self.status = status

    def end(self, end_time: int | None = None) -> None:
        self.ended = end_time or 0


class KeptTracer(trace.NoOpTracer):
    """A tracer of OpenTelemetry's interface that keeps its spans."""

    def __init__(self) -> None:
        self.spans: list[KeptSpan] = []

    def start_span(self, name: str, *args: Any, **more: Any) -> KeptSpan:
        self.spans.append(KeptSpan(name, **more))
        return self.spans[-1]


def exchange(**more: Any) -> Exchange:
    made = Exchange("x1", "chat", NOW, 100.0)
    made.sent_at, made.first_byte_at, made.ended_at, made.status = 100.5, 101.0, 102.0, 200
    made.target, made.usage = Target("openai", "openai", "gpt-x"), Usage(12, 3)
    made.domain, made.arm, made.version = "support", "canary", 4
    made.request, made.reply = b'{"secret": 1}', [b"secret"]
    for name, value in more.items():
        setattr(made, name, value)
    return made


def test_a_span_tells_the_exchange_in_conventional_words() -> None:
    kept = KeptTracer()
    metrics = GatewayMetrics()
    metrics.traces = Traces(kept).observe
    metrics.observe(exchange())
    (span,) = kept.spans
    said = span.more["attributes"]
    assert span.name == "chat gpt-x"
    assert (said["gen_ai.provider.name"], said["gen_ai.usage.input_tokens"], said["metaspo.version"]) == (
        "openai",
        12,
        4,
    )
    assert span.more["start_time"] == int(NOW * 1e9)
    assert span.moments == [("sent_upstream", int((NOW + 0.5) * 1e9)), ("first_token", int((NOW + 1) * 1e9))]
    assert span.ended == int((NOW + 2) * 1e9)
    assert span.status is None
    assert "secret" not in str(span.more)
    assert all(isinstance(value, str | int | bool) for value in said.values())


def test_a_callers_trace_goes_on() -> None:
    kept = KeptTracer()
    trace_id, span_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    Traces(kept).observe(exchange(traceparent=f"00-{trace_id}-{span_id}-01".encode()))
    Traces(kept).observe(exchange(traceparent=b"nonsense \xff"))
    Traces(kept).observe(exchange())
    parents = [trace.get_current_span(span.more["context"]).get_span_context() for span in kept.spans]
    assert f"{parents[0].trace_id:032x}" == trace_id
    assert f"{parents[0].span_id:016x}" == span_id
    assert [parent.is_valid for parent in parents[1:]] == [False, False]
    assert kept.spans[2].more["context"] is None


def test_a_failed_exchange_is_an_error() -> None:
    kept = KeptTracer()
    Traces(kept).observe(exchange(ending="cut"))
    Traces(kept).observe(exchange(status=429, target=None, usage=None, sent_at=0.0, first_byte_at=0.0, version=None))
    assert [span.more["attributes"]["error.type"] for span in kept.spans] == ["cut", "429"]
    assert all(span.status is not None for span in kept.spans)
    assert kept.spans[1].name == "chat"


@pytest.mark.parametrize(
    "missing", ["opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter"]
)
def test_without_the_extra_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)  # as if it were not installed
    with pytest.raises(StartFailed, match="pip install opentelemetry-sdk"):
        tracer()
