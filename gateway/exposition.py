"""Adds up the workers' numbers and writes them in Prometheus' or OpenMetrics' text form, by `prometheus_client`.

Imported with the first scrape: the request path does not need the library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from operator import add

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from gateway.metric_names import FAMILIES, Family
from gateway.metrics import Histogram, Labels, WorkerNumbers

_MERGE_GAUGES: dict[str, Callable[[float, float], float]] = {
    "metaspo_registry_up": min,
    "metaspo_upstream_up": min,
    "metaspo_in_flight": add,
}
"""How the gauges of several workers become one; the rest shows the largest."""


class Merged(Collector):
    """The numbers of several workers as one process' metrics."""

    def __init__(self, workers: Iterable[WorkerNumbers]) -> None:
        self._workers = list(workers)
        self._live = [worker for worker in self._workers if psutil.pid_exists(worker.pid)]

    def collect(self) -> Iterator[Metric]:
        """All families, also those without a series yet: dashboards see the names from the start."""
        for family in FAMILIES:
            if family.kind == "counter":
                yield self._counter(family)
            elif family.kind == "gauge":
                yield self._gauge(family)
            else:
                yield self._histogram(family)

    def _counter(self, family: Family) -> Metric:
        metric = CounterMetricFamily(family.name, family.help, labels=family.labels)
        totals: dict[Labels, float] = {}
        for worker in self._workers:
            for labels, value in worker.counters.get(family.name, ()):
                totals[labels] = totals.get(labels, 0.0) + value
        for labels, value in sorted(totals.items()):
            metric.add_metric(labels, value)
        return metric

    def _gauge(self, family: Family) -> Metric:
        metric = GaugeMetricFamily(family.name, family.help, labels=family.labels)
        merge: Callable[[float, float], float] = _MERGE_GAUGES.get(family.name, max)
        values: dict[Labels, float] = {}
        for worker in self._live:
            for labels, value in worker.gauges.get(family.name, ()):
                values[labels] = merge(values[labels], value) if labels in values else value
        for labels, value in sorted(values.items()):
            metric.add_metric(labels, value)
        return metric

    def _histogram(self, family: Family) -> Metric:
        metric = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        series: dict[Labels, Histogram] = {}
        for worker in self._workers:
            for labels, histogram in worker.histograms.get(family.name, ()):
                if len(histogram.counts) != len(family.buckets) + 1:
                    continue  # written by another version of this program
                known = series.setdefault(labels, Histogram([0] * len(histogram.counts)))
                known.counts = [a + b for a, b in zip(known.counts, histogram.counts, strict=True)]
                known.total += histogram.total
        bounds = [*map(str, family.buckets), "+Inf"]
        for labels, histogram in sorted(series.items(), key=lambda item: item[0]):
            buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
            metric.add_metric(labels, buckets, histogram.total)
        return metric


def expose(workers: Iterable[WorkerNumbers], accept: str) -> tuple[bytes, str]:
    """The text that a scraper gets, and its content type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Merged(workers))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
