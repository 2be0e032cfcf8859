"""How far a judge can be believed: its agreement with people, and a rate corrected for its errors.

A judge's score counts as "good" from one half on, a person's likewise. Kappa is Cohen's (1960) with the large-sample
standard error; sensitivity q1 and specificity q0 carry Wilson intervals; the corrected rate is (p + q0 - 1) / (q0 +
q1 - 1) (Rogan and Gladen 1978) with the variance of the calibration added (as in arXiv 2511.21140).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from jobs import policy

GOOD = 0.5
_Z = 1.959963984540054


class Agreement(msgspec.Struct, frozen=True):
    """Judge against people on ``n`` answers. All but the counts are None where they cannot be computed."""

    n: int
    good: int
    """Answers that people call good."""
    kappa: float | None = None
    kappa_low: float | None = None
    kappa_high: float | None = None
    sensitivity: tuple[float, float, float] | None = None
    """(value, low, high): share of the good ones that the judge calls good."""
    specificity: tuple[float, float, float] | None = None

    @property
    def calibrated(self) -> bool:
        return policy.calibrated(self.kappa, self.kappa_low, self.n)


def agreement(pairs: Sequence[tuple[float, float]]) -> Agreement:
    """``pairs`` of (judge's score, people's score), both in 0..1."""
    cells = {(a, b): 0 for a in (True, False) for b in (True, False)}
    for judged, labelled in pairs:
        cells[judged >= GOOD, labelled >= GOOD] += 1
    n, good = len(pairs), cells[True, True] + cells[False, True]
    if not n:
        return Agreement(0, 0)
    observed = (cells[True, True] + cells[False, False]) / n
    says_good = (cells[True, True] + cells[True, False]) / n
    chance = says_good * good / n + (1 - says_good) * (1 - good / n)
    kappa = low = high = None
    if chance < 1:
        kappa = (observed - chance) / (1 - chance)
        error = math.sqrt(observed * (1 - observed) / n) / (1 - chance)
        low, high = max(-1.0, kappa - _Z * error), min(1.0, kappa + _Z * error)
    return Agreement(n, good, kappa, low, high, wilson(cells[True, True], good), wilson(cells[False, False], n - good))


def wilson(successes: int, n: int) -> tuple[float, float, float] | None:
    """A rate with its 95 % Wilson interval; None for no trials."""
    if n == 0:
        return None
    p = successes / n
    middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    return p, max(0.0, middle - half), min(1.0, middle + half)


def corrected_rate(rate: float, n: int, found: Agreement) -> tuple[float, float, float] | None:
    """The true rate of good answers behind a judged ``rate`` over ``n`` answers: (value, low, high), all in 0..1.

    None when the judge is no better than a coin (q0 + q1 <= 1) or was never calibrated on both kinds.
    """
    if n == 0 or found.sensitivity is None or found.specificity is None:
        return None
    q1, q0 = found.sensitivity[0], found.specificity[0]
    power = q0 + q1 - 1
    if power <= 0:
        return None
    theta = min(1.0, max(0.0, (rate + q0 - 1) / power))
    bad = found.n - found.good
    variance = (
        rate * (1 - rate) / n + theta**2 * q1 * (1 - q1) / found.good + (1 - theta) ** 2 * q0 * (1 - q0) / bad
    ) / power**2
    half = _Z * math.sqrt(variance)
    return theta, max(0.0, theta - half), min(1.0, theta + half)


def flip_rate(first: Sequence[float | None], second: Sequence[float | None]) -> float | None:
    """How often a second verdict on the same answer falls on the other side; None without pairs."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    return sum((a >= GOOD) != (b >= GOOD) for a, b in pairs) / len(pairs) if pairs else None
