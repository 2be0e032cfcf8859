"""What is counted, and how it is shown to Prometheus over all workers of a machine.

The request path adds to plain dictionaries and lists of its own process (about two microseconds an exchange; the
client library's locks and memory-mapped files cost ten times that). Once a second each worker writes its numbers to
a file of its own; whichever worker is scraped adds the files up, its own numbers fresh, through
`prometheus_client`'s custom collectors. A worker that dies leaves its file, so that counters never fall; gauges are
taken from live workers only.

Labels are bounded: domains of the snapshot, arms, dialects, known statuses, upstreams of the config, and models
that the config or the price table names. Everything else is ``other``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from gateway.exchange import Dialect, Exchange
from gateway.metric_names import FAMILIES, Family
from gateway.series import LONGEST_MODEL, Buckets, Seen, Series
from registry import Snapshot

OTHER = "other"
MOST_DOMAINS = 1000
MOST_SERIES = 4096
"""Kinds of exchanges whose labels are remembered."""
FOLD_AT = 256
"""Exchanges of one kind that are noted before they are counted, unless a scrape or a flush comes first."""
MOST_UNNAMED_MODELS = 50
"""Models that only the price table names get a label of their own up to so many."""
FLUSH_EVERY = 1.0

Labels = tuple[str, ...]

_KNOWN = "200 201 202 204 400 401 403 404 405 408 409 413 415 422 429 499 500 501 502 503 504 529"
_STATUSES = {int(code): code for code in _KNOWN.split()}
OPERATIONS: dict[Dialect, str] = {
    "chat": "chat",
    "responses": "chat",
    "messages": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
    "models": "models",
}


class Histogram(msgspec.Struct):
    """Counts by bucket, not cumulated; the last one is everything above the last bound."""

    counts: list[int]
    total: float = 0.0


class WorkerNumbers(msgspec.Struct):
    """All numbers of one worker: the content of its file."""

    pid: int
    counters: dict[str, list[tuple[Labels, float]]] = {}
    gauges: dict[str, list[tuple[Labels, float]]] = {}
    histograms: dict[str, list[tuple[Labels, Histogram]]] = {}


class GatewayMetrics:
    """The numbers of one worker. Implements `gateway.exchange.Metrics`, and what sampling, snapshot and API report.

    ``directory`` is shared by the workers of one `serve`, and empty when it begins; None: this process is the only one.
    ``models`` are the names that the config gives; ``priced`` tells whether the price table knows one of some names.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        models: Iterable[str] = (),
        priced: Callable[..., bool] = lambda *_names: False,
        pid: int | None = None,
    ) -> None:
        self._directory = directory
        self._pid = os.getpid() if pid is None else pid
        self._models = {name: name for name in models if not name.endswith("*")}
        self._priced = priced
        self._unnamed_models = 0
        self._domains: frozenset[str] = frozenset()
        self._counters: dict[str, dict[Labels, float]] = {f.name: {} for f in FAMILIES if f.kind == "counter"}
        self._histograms: dict[str, dict[Labels, Buckets]] = {f.name: {} for f in FAMILIES if f.kind == "histogram"}
        self._bounds = {family.name: family.buckets for family in FAMILIES}
        self._pointers: dict[str, list[tuple[Labels, float]]] = {}
        self._series: dict[tuple[str, str, str, int, int], Series] = {}
        self._folding = threading.Lock()
        self._task: asyncio.Task[None] | None = None
        self.traces: Callable[[Exchange], None] | None = None
        """What else is told of each exchange: `gateway.telemetry.Traces.observe`, where traces are wanted."""
        self.registry_state: Callable[[], tuple[float, bool, int]] = lambda: (0.0, False, 0)
        """Age of the snapshot in seconds, whether the registry answers, values refused so far: set by the server."""

        self.load_state: Callable[[], tuple[int, dict[str, bool]]] = lambda: (0, {})
        """Requests in flight, and which upstreams are not ejected: set by the server."""

    # --- the request path ---------------------------------------------------------------------------------------------

    def observe(self, exchange: Exchange) -> None:
        """Count one finished exchange."""
        target = exchange.target
        key = (exchange.dialect, exchange.domain, exchange.arm, exchange.status, id(target))
        series = self._series.get(key)
        if series is None or series.target is not target or (series.model != exchange.model and target is not None):
            series = self._series_of(exchange, key)
        usage = exchange.usage
        seen = series.seen
        seen.append(
            (
                exchange.received_at,
                exchange.sent_at,
                exchange.first_byte_at if exchange.stream else 0.0,
                exchange.ended_at,
                usage,
                (usage is None or not series.priced) and exchange.ok,
            )
        )
        if self.traces is not None:
            self.traces(exchange)
        if len(seen) >= FOLD_AT:
            self._fold(series)

    def _series_of(self, exchange: Exchange, key: tuple[str, str, str, int, int]) -> Series:
        """What exchanges like this one count in: looked up once."""
        known = self._series.pop(key, None)
        if known is not None:
            self._fold(known)
        if len(self._series) >= MOST_SERIES:
            self._fold_all()
            self._series.clear()
        status = _STATUSES.get(exchange.status) or _status(exchange.status)
        series = self._series[key] = Series(exchange, (self._domain(exchange.domain), exchange.arm, status))
        target = exchange.target
        if target is not None:
            series.about = (OPERATIONS[exchange.dialect], self._model(target.model), target.upstream)
            own_price = target.price_in is not None or target.price_out is not None
            series.priced = own_price or self._priced(target.model, exchange.model)
        return series

    def _fold(self, series: Series) -> None:
        """Count what was noted: many at once take a fraction of the time of one by one. From the loop's thread, or from
        the one that a scrape is rendered in."""
        with self._folding:
            count = len(series.seen)
            seen = series.seen[:count]
            del series.seen[:count]
            self._add(series, seen)

    def _add(self, series: Series, seen: list[Seen]) -> None:
        labels = (series.dialect, *series.labels)
        requests = self._counters["metaspo_requests_total"]
        requests[labels] = requests.get(labels, 0) + len(seen)
        overhead = self._histogram("metaspo_overhead_seconds", (series.dialect,))
        overhead.add([max(0.0, (sent or ended) - received) for received, sent, _, ended, _, _ in seen])
        if series.target is None:
            return
        about = series.about
        asked = [one for one in seen if one[1]]
        durations = [max(0.0, ended - received) for received, _, _, ended, _, _ in asked]
        firsts = [max(0.0, first - received) for received, _, first, _, _, _ in asked if first]
        usages = [usage for *_, usage, _ in asked if usage is not None]
        free = [usage for *_, usage, uncounted in asked if uncounted]
        if free:
            for reason, missed in (("tokens", free.count(None)), ("price", len(free) - free.count(None))):
                if missed:
                    self._count("metaspo_unpriced_total", (about[1], reason), missed)
        for name, more, values in (
            ("gen_ai_server_request_duration_seconds", (), durations),
            ("gen_ai_server_time_to_first_token_seconds", (), firsts),
            ("gen_ai_client_token_usage", ("input",), [usage.prompt_tokens for usage in usages]),
            ("gen_ai_client_token_usage", ("output",), [usage.answer_tokens for usage in usages]),
        ):
            if values:
                self._histogram(name, (*about, *more)).add(values)

    def _fold_all(self) -> None:
        for series in list(self._series.values()):
            if series.seen:
                self._fold(series)

    def _histogram(self, name: str, labels: Labels) -> Buckets:
        series = self._histograms[name]
        buckets = series.get(labels)
        if buckets is None:
            buckets = series[labels] = Buckets(self._bounds[name])
        return buckets

    def _domain(self, name: str) -> str:
        return name if name in self._domains else OTHER if name else ""

    def _model(self, name: str) -> str:
        known = self._models.get(name)
        if known is None:
            if self._unnamed_models >= MOST_UNNAMED_MODELS or len(name) > LONGEST_MODEL or not self._priced(name):
                return OTHER
            self._unnamed_models += 1
            known = self._models[name] = name
        return known

    # --- what the rest of the gateway reports -------------------------------------------------------------------------

    def _count(self, name: str, labels: Labels, by: float = 1.0) -> None:
        series = self._counters[name]
        series[labels] = series.get(labels, 0.0) + by

    def sample(self, domain: str, *, kept: bool) -> None:
        """One exchange that could have been kept for learning."""
        self._count("metaspo_samples_total", (self._domain(domain), "true" if kept else "false"))

    def dropped(self, reason: str) -> None:
        """One exchange that should have been kept and was not. ``reason`` is one of ours."""
        self._count("metaspo_samples_dropped_total", (reason,))

    def moved(self, domain: str, kind: str) -> None:
        """A pointer moved by this gateway's API. A rollback by a person counts under cause ``operator``."""
        if kind == "rollback":
            self._count("metaspo_rollbacks_total", (self._domain(domain), "operator"))
        else:
            self._count("metaspo_promotions_total", (self._domain(domain), kind))

    def feedback(self, domain: str, kind: str) -> None:
        """One feedback taken. ``kind``: ``reference``, ``score`` or ``comment``, the most telling part of it."""
        self._count("metaspo_feedback_total", (self._domain(domain), kind))

    def load(self, snapshot: Snapshot) -> None:
        """Take domains and pointers of a new snapshot."""
        names = sorted(snapshot.domains)[:MOST_DOMAINS]
        self._domains = frozenset(names)
        self._fold_all()
        self._series.clear()
        versions: list[tuple[Labels, float]] = []
        shares: list[tuple[Labels, float]] = []
        for name in names:
            pointers = snapshot.domains[name].deployment
            for arm in ("stable", "canary", "holdback"):
                number = getattr(pointers, arm)
                if number is not None:
                    versions.append(((name, arm), number))
            shares.append(((name,), pointers.share if pointers.canary is not None else 0.0))
        self._pointers = {"metaspo_prompt_version": versions, "metaspo_canary_share": shares}

    # --- over all workers ---------------------------------------------------------------------------------------------

    def numbers(self) -> WorkerNumbers:
        """All numbers of this worker, now."""
        self._fold_all()
        age, up, refused = self.registry_state()
        counters = {name: list(series.items()) for name, series in self._counters.items()}
        counters["metaspo_snapshot_refused_total"] = [((), float(refused))]
        in_flight, upstreams = self.load_state()
        return WorkerNumbers(
            pid=self._pid,
            counters=counters,
            gauges={
                **self._pointers,
                "metaspo_snapshot_age_seconds": [((), min(age, 1e9))],
                "metaspo_registry_up": [((), float(up))],
                "metaspo_in_flight": [((), float(in_flight))],
                "metaspo_upstream_up": [((name,), float(good)) for name, good in sorted(upstreams.items())],
            },
            histograms={
                name: [(labels, Histogram(found.counts, found.total)) for labels, found in list(series.items())]
                for name, series in self._histograms.items()
            },
        )

    def flush(self) -> None:
        """Write this worker's file, whole or not at all."""
        if self._directory is not None:
            path = self._directory / f"{self._pid}.json"
            part = path.with_suffix(".part")
            part.write_bytes(msgspec.json.encode(self.numbers()))
            part.replace(path)

    def all_workers(self) -> Iterator[WorkerNumbers]:
        """This worker's numbers fresh, then what the others wrote last. A damaged file counts as absent."""
        yield self.numbers()
        if self._directory is None:
            return
        for path in sorted(self._directory.glob("*.json")):
            if path.stem != str(self._pid):
                with contextlib.suppress(OSError, msgspec.DecodeError):
                    yield msgspec.json.decode(path.read_bytes(), type=WorkerNumbers)

    def start(self) -> None:
        """Begin to write the file in the background."""
        if self._directory is not None and self._task is None:
            self._task = asyncio.create_task(self._flush_for_ever(), name="metrics")

    async def stop(self) -> None:
        """Write the last numbers and end."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
            with contextlib.suppress(OSError):
                self.flush()

    async def _flush_for_ever(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY)
            with contextlib.suppress(OSError):  # a full disk must not end the counting
                self.flush()

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The exposition of all workers and its content type, as the scraper's ``accept`` asks."""
        from gateway.exposition import expose

        return expose(self.all_workers(), accept)


def _status(status: int) -> str:
    return f"{status // 100}xx" if 100 <= status < 600 else OTHER


def families() -> tuple[Family, ...]:
    """Every metric of the gateway: name, kind, help and labels, for the documentation."""
    return FAMILIES
