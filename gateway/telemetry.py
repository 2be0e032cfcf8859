"""OpenTelemetry traces with the GenAI conventions: one span for each exchange, never with content.

An extra: it needs ``opentelemetry-sdk`` and an exporter, and is asked for by ``gateway.otel``. A span is made when
its exchange has ended, from the times that the exchange noted, so that tracing adds nothing to a request's own
time. Where the process was started with a tracer provider of its own (``opentelemetry-instrument``), that one is
used; else OTLP over HTTP, set up by the usual ``OTEL_...`` variables.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from gateway.errors import StartFailed
from gateway.exchange import Exchange
from gateway.metrics import OPERATIONS

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

MISSING = (
    "gateway.otel is set, but OpenTelemetry is not installed: run"
    " `pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http`, or set gateway.otel to false."
)

EXPORT_SECONDS = 2.0
"""So long a batch is tried, unless ``OTEL_EXPORTER_OTLP_TIMEOUT`` says otherwise: the end of the process waits for the
last one, and the exporter's own 10 s would hold up every restart while the collector is away."""


def check_installed() -> None:
    """Raise `StartFailed` when the packages are not here. Starts nothing, so that workers may be forked afterwards."""
    try:
        found = all(map(find_spec, ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")))
    except ImportError as error:
        raise StartFailed(MISSING) from error
    if not found:
        raise StartFailed(MISSING)


def tracer(service: str = "metaspo-gateway") -> Tracer:
    """The tracer that the process was given, or one that exports over OTLP. Raises `StartFailed`."""
    try:
        trace = import_module("opentelemetry.trace")
        if type(trace.get_tracer_provider()).__name__ == "ProxyTracerProvider":  # nobody has set one up
            sdk = import_module("opentelemetry.sdk.trace")
            export = import_module("opentelemetry.sdk.trace.export")
            resources = import_module("opentelemetry.sdk.resources")
            otlp = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
            provider = sdk.TracerProvider(resource=resources.Resource.create({"service.name": service}))
            told = {"OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT"} & os.environ.keys()
            exporter = otlp.OTLPSpanExporter(timeout=None if told else EXPORT_SECONDS)
            provider.add_span_processor(export.BatchSpanProcessor(exporter))
            trace.set_tracer_provider(provider)
    except ImportError as error:
        raise StartFailed(MISSING) from error
    found: Tracer = trace.get_tracer("metaspo.gateway")
    return found


def attributes(exchange: Exchange) -> dict[str, str | int | bool]:
    """What is said of an exchange: names of the GenAI conventions, and what was served. Never a text of anybody's."""
    target, usage = exchange.target, exchange.usage
    known: dict[str, Any] = {
        "gen_ai.operation.name": OPERATIONS[exchange.dialect],
        "gen_ai.provider.name": target.upstream if target else None,
        "gen_ai.request.model": target.model if target else None,
        "gen_ai.usage.input_tokens": usage.prompt_tokens if usage else None,
        "gen_ai.usage.output_tokens": usage.answer_tokens if usage else None,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens if usage else None,
        "http.response.status_code": exchange.status,
        "error.type": exchange.ending or (str(exchange.status) if exchange.status >= 400 else None),
        "metaspo.exchange": exchange.id,
        "metaspo.dialect": exchange.dialect,
        "metaspo.stream": exchange.stream,
        "metaspo.domain": exchange.domain,
        "metaspo.task": exchange.task or None,
        "metaspo.arm": exchange.arm,
        "metaspo.version": exchange.version,
        "metaspo.key": exchange.key.id if exchange.key else None,
    }
    return {name: value for name, value in known.items() if value is not None}


class Traces:
    """Makes the spans. ``observe`` is called with each finished exchange, after its reply has gone."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        trace = import_module("opentelemetry.trace")
        self._propagator = import_module("opentelemetry.trace.propagation.tracecontext").TraceContextTextMapPropagator()
        self._kind = trace.SpanKind.SERVER
        self._error = trace.Status(trace.StatusCode.ERROR)

    def _parent(self, traceparent: bytes) -> Any:
        """The caller's span, so that ours hangs under it; None without a (valid) one."""
        if not traceparent:
            return None
        return self._propagator.extract({"traceparent": traceparent.decode("latin-1")})

    def observe(self, exchange: Exchange) -> None:
        """One span over the exchange's life, with events at the request upstream and at the first token."""
        said = attributes(exchange)
        name = f"{said['gen_ai.operation.name']} {said.get('gen_ai.request.model', '')}".rstrip()
        begun = exchange.started
        span = self._tracer.start_span(
            name,
            context=self._parent(exchange.traceparent),
            kind=self._kind,
            attributes=said,
            start_time=_nanoseconds(begun),
        )
        for moment, what in ((exchange.sent_at, "sent_upstream"), (exchange.first_byte_at, "first_token")):
            if moment:
                span.add_event(what, timestamp=_nanoseconds(begun + moment - exchange.received_at))
        if "error.type" in said:
            span.set_status(self._error)
        span.end(end_time=_nanoseconds(begun + exchange.latency))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
