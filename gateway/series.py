"""What the request path notes of exchanges until it is counted: cheap to note, cheap to count many at once."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from gateway.exchange import Exchange, Usage

LONGEST_MODEL = 128
"""Characters of a model's name that is remembered."""


class Buckets:
    """A histogram that is being counted."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, values: Sequence[float]) -> None:
        """Count them."""
        bounds, counts = self._bounds, self.counts
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        self.total += sum(values)


Seen = tuple[float, float, float, float, Usage | None, bool]
"""Of one exchange: when it was received, sent, first answered (streams only) and ended; its tokens; whether no budget
can count it."""


class Series:
    """What exchanges of one kind count in: their labels, found once, and what was noted of them since the last fold."""

    __slots__ = ("about", "dialect", "labels", "model", "priced", "seen", "target")

    def __init__(self, exchange: Exchange, labels: tuple[str, str, str]) -> None:
        self.dialect = exchange.dialect
        self.labels = labels
        self.target = exchange.target
        self.model = exchange.model if len(exchange.model) <= LONGEST_MODEL else ""
        """As the last caller wrote it: it may have a price where the target has none."""
        self.about: tuple[str, str, str] = ("", "", "")
        self.priced = False
        self.seen: list[Seen] = []
