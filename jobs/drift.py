"""Job ``drift``: are the scores of the stable version where they used to be?

A control chart in two pieces. The band comes from the first judged units after the version became stable (at most
``BASE``); the point is the mean of the latest ones (at most ``RECENT``). Both are means per unit, so a chatty user
counts once. When the point is more than three standard errors *and* three points below the band's middle, a search is
asked for, once a week per version.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec

from jobs.errors import NoWork
from jobs.work import Work
from registry import Sample, Trigger

BASE = 400
RECENT = 100
LEAST = 30
SIGMAS = 3.0
SMALLEST = 0.03


class Chart(msgspec.Struct, frozen=True):
    """Where scores stand: the band's middle, the latest mean, its distance in standard errors (below is negative)."""

    base: float
    recent: float
    z: float
    n_base: int
    n_recent: int

    @property
    def fallen(self) -> bool:
        return self.z < -SIGMAS and self.recent < self.base - SMALLEST


async def run(work: Work) -> str:
    """Raises NoWork when there is no stable version or too little is judged to say anything."""
    domain = await work.domain()
    stable = (await work.registry.deployment(domain.name)).stable
    if stable is None:
        raise NoWork("nothing_stable", f"{domain.name!r} has no stable version to watch.")
    samples = await work.registry.samples(domain.name, version=stable, reservoir="representative", limit=10_000)
    chart = draw(s for s in samples if s.arm in {"stable", "control"})
    if chart is None:
        raise NoWork("too_few_scores", f"Fewer than {2 * LEAST} judged users of version {stable} of {domain.name!r}.")
    told = (
        f"{chart.recent:.3f} lately, {chart.base:.3f} at first"
        f" (z {chart.z:+.1f}, {chart.n_recent} and {chart.n_base} users)"
    )
    if not chart.fallen:
        return f"in its band: {told}"
    year, week, _ = datetime.fromtimestamp(work.clock(), UTC).isocalendar()
    asked = await work.registry.put_trigger(
        Trigger(
            id=f"optimize:{domain.name}:drift-{stable}-{year}w{week:02}",
            job="optimize",
            domain=domain.name,
            at=work.clock(),
            by="drift",
            why=f"scores of version {stable} fell: {told}",
        )
    )
    if asked:
        await work.registry.append_audit(
            domain.name, "drift", actor="jobs", why=f"Scores of version {stable} left their band: {told}",
            detail=msgspec.to_builtins(chart), request_id=f"drift-{stable}-{year}-{week}",
        )  # fmt: skip
    return f"below its band: {told}"


def draw(samples: Iterable[Sample]) -> Chart | None:
    """The chart of one version's scored samples; None while base and latest units do not reach ``LEAST`` each.

    Scores by different judges are never compared: only those of the latest judge of each task count.
    """
    ordered = sorted((s for s in samples if s.score is not None), key=lambda s: s.at)
    rod = {s.task: s.score_by for s in ordered}
    by_unit: dict[str, list[float]] = defaultdict(list)
    for sample in ordered:
        if sample.score is not None and sample.score_by == rod[sample.task]:
            by_unit[sample.unit].append(sample.score)
    means = [statistics.fmean(scores) for scores in by_unit.values()]
    recent = means[-min(RECENT, len(means) // 2) :] if means else []
    base = means[: min(BASE, len(means) - len(recent))]
    if min(len(base), len(recent)) < LEAST:
        return None
    spread = math.sqrt(_variance(base) / len(base) + _variance(recent) / len(recent))
    gap = statistics.fmean(recent) - statistics.fmean(base)
    return Chart(
        statistics.fmean(base), statistics.fmean(recent), gap / spread if spread else 0.0, len(base), len(recent)
    )


def _variance(values: Sequence[float]) -> float:
    """Never quite zero: a run of equal scores proves no certainty."""
    return max(statistics.variance(values), 1.0 / (4 * len(values)))
