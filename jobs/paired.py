"""Two prompts on the same examples: how much better is one, and how sure is that."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

import msgspec

from jobs.errors import NoWork

Z_TWO_SIDED = 1.959963984540054
Z_ONE_SIDED = 1.6448536269514722


class Clustered(Protocol):
    """What is read of an example."""

    @property
    def id(self) -> str: ...
    @property
    def cluster(self) -> str: ...


class Gain(msgspec.Struct, frozen=True):
    """Mean scores before and after, the mean difference over clusters with its standard error, and the pairs scored."""

    before: float
    after: float
    gain: float
    error: float
    n: int

    @property
    def low(self) -> float:
        """Lower end of the two-sided 95 % interval of the gain."""
        return self.gain - Z_TWO_SIDED * self.error

    def certain(self, least: float) -> bool:
        """Better by at least ``least``, and better for certain."""
        return self.gain >= least and self.low > 0

    def not_worse(self, margin: float) -> bool:
        """Shown at one-sided 5 % to lose less than ``margin``."""
        return self.gain - Z_ONE_SIDED * self.error > -margin

    def words(self) -> str:
        sure = f"gain {self.gain:+.3f}, at least {self.low:+.3f}"
        return f"{self.before:.3f} -> {self.after:.3f} on {self.n} examples ({sure})"


def measure(rows: Sequence[Clustered], before: Sequence[float | None], after: Sequence[float | None]) -> Gain:
    """Paired by example, clustered by near-duplicates; examples that either arm left unscored are out of both.

    Raises NoWork when fewer than two clusters could be scored.
    """
    clusters: dict[str, list[float]] = defaultdict(list)
    scored: list[tuple[float, float]] = []
    for row, a, b in zip(rows, before, after, strict=True):
        if a is not None and b is not None:
            scored.append((a, b))
            clusters[row.cluster or row.id].append(b - a)
    if len(clusters) < 2:
        raise NoWork("too_few_examples", "Too few of the answers could be scored.")
    means = [statistics.fmean(d) for d in clusters.values()]
    return Gain(
        statistics.fmean(a for a, _ in scored),
        statistics.fmean(b for _, b in scored),
        statistics.fmean(means),
        statistics.stdev(means) / math.sqrt(len(means)),
        len(scored),
    )
