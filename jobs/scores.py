"""Mean scores of live traffic with their intervals, as every worker shows them.

The sums stand in the registry, whoever judged; each worker reads them every ``EVERY`` seconds, so that none shows what
was true when it last judged, and an arm that is no longer pointed at disappears from all of them.
"""

from __future__ import annotations

import asyncio
import contextlib

from jobs.agreement import wilson
from jobs.metrics import Metrics
from registry import Registry, RegistryError, Tally

EVERY = 30.0


async def keep_fresh(registry: Registry, metrics: Metrics, every: float = EVERY) -> None:
    """Read and show, for ever. While the registry is away the last values stay."""
    while True:
        with contextlib.suppress(RegistryError):
            await publish(registry, metrics)
        await asyncio.sleep(every)


async def publish(registry: Registry, metrics: Metrics) -> None:
    """Mean score and 95 % interval per domain and arm, of the versions that are pointed at; others are taken away."""
    shown: set[tuple[str, str]] = set()
    for name in await registry.domain_names():
        pointers = await registry.deployment(name)
        live = {
            "stable": pointers.stable,
            "canary": pointers.canary,
            "control": pointers.stable if pointers.canary is not None else None,
            "holdback": pointers.holdback,
        }
        for tally in await registry.outcome_totals(name):
            if tally.scored and tally.version is not None and live.get(tally.arm) == tally.version:
                shown.add((name, tally.arm))
                found = interval(tally)
                for gauge, value in zip(metrics.scores, found, strict=True):
                    gauge.labels(name, tally.arm).set(value)
    for labels in metrics.scores_shown - shown:
        for gauge in metrics.scores:
            gauge.remove(*labels)
    metrics.scores_shown = shown


def interval(tally: Tally) -> tuple[float, float, float]:
    """(mean, low, high) of a sum of scores: Wilson for yes/no scores and small counts, else the normal interval."""
    mean = tally.score / tally.scored
    spread = max(0.0, tally.score_sq / tally.scored - mean**2)
    if tally.scored < 30 or abs(spread - mean * (1 - mean)) < 1e-9:
        found = wilson(round(tally.score), tally.scored)
        assert found is not None
        return mean, min(found[1], mean), max(found[2], mean)
    half = 1.96 * (spread / (tally.scored - 1)) ** 0.5
    return mean, max(0.0, mean - half), min(1.0, mean + half)
