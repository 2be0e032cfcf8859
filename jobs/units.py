"""What the units of one arm did: per-unit figures in columns, made from the exchanges that the gateway counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from jobs.statistics import FloatArray

HARD_SIGNALS = ("error", "bad_format", "refusal", "negative")
"""What counts as a hard failure of a request, in the order of the rows of ``Units.failures``."""
JUDGED_PER_UNIT = 3
"""Only the first judged requests of a unit count, so that one busy user is not the experiment."""


class Exchange(Protocol):
    """What is read of one counted exchange (``registry.Outcome``)."""

    @property
    def unit(self) -> str: ...
    @property
    def at(self) -> float: ...
    @property
    def error(self) -> bool: ...
    @property
    def bad_format(self) -> bool: ...
    @property
    def refusal(self) -> bool: ...
    @property
    def negative(self) -> bool: ...
    @property
    def latency(self) -> float: ...
    @property
    def answer_tokens(self) -> int: ...
    @property
    def cost(self) -> float: ...
    @property
    def score(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Units:
    """Figures per unit in columns, units in order of first appearance.

    ``first_at`` (n,) seconds; ``failures`` (signals, n) share of the unit's requests that failed; ``scores`` (n,) mean
    of its first judged requests, NaN when none was judged; ``logs`` per quantity (n,) mean log, NaN when unknown;
    ``tasks`` per task (n,) like ``scores``.
    """

    first_at: FloatArray
    failures: FloatArray
    scores: FloatArray
    logs: Mapping[str, FloatArray] = field(default_factory=dict)
    tasks: Mapping[str, FloatArray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.first_at)

    def until(self, time: float) -> int:
        """How many units had appeared by ``time``."""
        return int(np.searchsorted(self.first_at, time, side="right"))

    def quality(self) -> FloatArray:
        """Scores of the judged units."""
        return self.scores[np.isfinite(self.scores)]

    def task_quality(self, task: str) -> FloatArray:
        """Scores of the units judged in ``task``."""
        scores = self.tasks.get(task)
        return np.zeros(0) if scores is None else scores[np.isfinite(scores)]

    def log_mean(self, quantity: str) -> FloatArray:
        """Mean logs of the units where ``quantity`` is known."""
        logs = self.logs.get(quantity)
        return np.zeros(0) if logs is None else logs[np.isfinite(logs)]


@dataclass(slots=True)
class _Tally:
    first_at: float
    requests: int = 0
    failed: list[int] = field(default_factory=lambda: [0] * len(HARD_SIGNALS))
    judged: list[float] = field(default_factory=list)
    logs: dict[str, list[float]] = field(default_factory=dict)
    tasks: dict[str, list[float]] = field(default_factory=dict)


def collect(exchanges: Iterable[Exchange], *, task_of: Callable[[Exchange], str] | None = None) -> Units:
    """Units of one arm from its exchanges, in any order. ``task_of`` names an exchange's task ("" when unknown).

    Tokens, latency and cost are those of exchanges that did not fail: a fast error is not a fast answer.
    """
    tallies: dict[str, _Tally] = {}
    for exchange in sorted(exchanges, key=lambda e: e.at):
        tally = tallies.setdefault(exchange.unit, _Tally(exchange.at))
        tally.requests += 1
        for row, signal in enumerate(HARD_SIGNALS):
            tally.failed[row] += bool(getattr(exchange, signal))
        if not exchange.error:
            for name, value in (
                ("tokens", exchange.answer_tokens),
                ("latency", exchange.latency),
                ("cost", exchange.cost),
            ):
                if value > 0:
                    tally.logs.setdefault(name, []).append(math.log(value))
        if exchange.score is not None and len(tally.judged) < JUDGED_PER_UNIT:
            tally.judged.append(exchange.score)
            task = task_of(exchange) if task_of else ""
            if task:
                tally.tasks.setdefault(task, []).append(exchange.score)
    rows = sorted(tallies.values(), key=lambda t: t.first_at)
    names = sorted({name for t in rows for name in t.logs})
    tasks = sorted({name for t in rows for name in t.tasks})
    return Units(
        np.array([t.first_at for t in rows], dtype=np.float64),
        np.array([[k / t.requests for k in t.failed] for t in rows], dtype=np.float64).reshape(-1, len(HARD_SIGNALS)).T,
        np.array([_mean(t.judged) for t in rows], dtype=np.float64),
        {name: np.array([_mean(t.logs.get(name)) for t in rows], dtype=np.float64) for name in names},
        {name: np.array([_mean(t.tasks.get(name)) for t in rows], dtype=np.float64) for name in tasks},
    )


def _mean(values: list[float] | None) -> float:
    return sum(values) / len(values) if values else math.nan
