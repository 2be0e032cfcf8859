"""Sequential statistics of live experiments: numpy and math only, no state of its own, no clock, no randomness.

What may be looked at as often as one likes:

* ``half_width``, ``upper_bound``: asymptotic confidence sequences (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas,
"Time-uniform
  central limit theory and asymptotic confidence sequences", arXiv 2103.06476), one-sided and two-sided;
* ``harm_wealth``: a two-sample Bernoulli e-process after Turner, Ly and Grünwald ("Generic E-variables for exact
sequential
  k-sample tests", arXiv 2106.02693), for rare failures;
* ``mixture_e``: the normal-mixture e-value that belongs to the confidence sequence. E-values may be averaged.

What may be looked at once: ``not_worse``, the fixed-n test of non-inferiority. The split itself is guarded by
``balance_e`` at every look and by ``balance_p``, the chi-square test, at the planned ones.

Units are users or conversations: the thing that sticks to an arm. Everything here is per unit; requests of one unit are
not independent, and a test that counts them alarms two to five times too often (docs/canary.md shows by how much).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

RATIOS = (2.0, 4.0, 8.0)
"""How many times as often the candidate may fail: each ratio is bet on with a third of the money."""
_PRIOR_FAILURES, _PRIOR_UNITS = 0.5, 25.0
"""What is believed of a failure rate before any unit was seen: half a failure in 25 units."""
_MOST = 0.95
"""Largest failure rate that is bet on."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of the candidate's units minus mean of the control's, its standard error, and how many units stand behind
    it.
    """

    effect: float
    se: float
    n_control: int
    n_candidate: int

    @property
    def n(self) -> int:
        """Units of both arms."""
        return self.n_control + self.n_candidate


def difference(control: FloatArray, candidate: FloatArray) -> Difference:
    """Difference of means of per-unit values. The error is infinite while an arm has fewer than two units."""
    n0, n1 = len(control), len(candidate)
    if n0 < 2 or n1 < 2:
        return Difference(math.nan, math.inf, n0, n1)
    variance = float(control.var(ddof=1)) / n0 + float(candidate.var(ddof=1)) / n1
    return Difference(float(candidate.mean()) - float(control.mean()), math.sqrt(variance), n0, n1)


def rho(alpha: float, n_star: float) -> float:
    """Tuning of the mixture so that the sequence is tightest when ``n_star`` units have been seen (two-sided
    ``alpha``).
    """
    return math.sqrt((-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / n_star)


def half_width(n: int, se: float, *, alpha: float, n_star: float, one_sided: bool = False) -> float:
    """Half-width of the confidence sequence after ``n`` units when the standard error of the estimate is ``se``.

    Two-sided: sqrt(v) sqrt(2 (n r^2 + 1) / (n r)^2 ln(sqrt(n r^2 + 1) / alpha)) with v = n se^2; one-sided the
    logarithm becomes ln(1 + sqrt(n r^2 + 1) / (2 alpha)) and r is tuned at 2 alpha.
    """
    if n < 1 or not math.isfinite(se):
        return math.inf
    r = rho(2 * alpha if one_sided else alpha, n_star)
    grown = n * r * r + 1
    log = math.log1p(math.sqrt(grown) / (2 * alpha)) if one_sided else math.log(math.sqrt(grown) / alpha)
    return math.sqrt(n) * se * math.sqrt(2 * grown / (n * r) ** 2 * log)


def upper_bound(d: Difference, *, alpha: float, n_star: float) -> float:
    """One-sided always-valid upper bound of the difference: below zero means harm."""
    if not math.isfinite(d.se):
        return math.inf
    return d.effect + half_width(d.n, d.se, alpha=alpha, n_star=n_star, one_sided=True)


def lower_bound(d: Difference, *, alpha: float, n_star: float) -> float:
    """One-sided always-valid lower bound of the difference."""
    if not math.isfinite(d.se):
        return -math.inf
    return d.effect - half_width(d.n, d.se, alpha=alpha, n_star=n_star, one_sided=True)


def mixture_e(d: Difference, *, alpha: float, n_star: float) -> float:
    """E-value against "no difference": exp(r^2 S^2 / (2 (n r^2 + 1))) / sqrt(n r^2 + 1), S^2 = n (effect / se)^2."""
    if not math.isfinite(d.se) or d.effect == 0:
        return 1.0
    if d.se == 0:
        return math.inf
    r2 = rho(alpha, n_star) ** 2
    grown = d.n * r2 + 1
    return _exp(r2 * d.n * (d.effect / d.se) ** 2 / (2 * grown) - 0.5 * math.log(grown))


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


# --- rare failures
# -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wealth:
    """The e-process of some signals. ``log_e`` (signals, ratios): log wealth of each bet; failures and units seen
    per arm.
    """

    log_e: tuple[tuple[float, ...], ...]
    failed_control: tuple[float, ...]
    failed_candidate: tuple[float, ...]
    n_control: int = 0
    n_candidate: int = 0

    @classmethod
    def start(cls, signals: int) -> Wealth:
        """Before any unit: every e-value is one."""
        nothing = (0.0,) * signals
        return cls(((0.0,) * len(RATIOS),) * signals, nothing, nothing)

    def by_signal(self) -> FloatArray:
        """E-value of each signal: the average over the bets on it."""
        values: FloatArray = _exps(np.array(self.log_e)).mean(axis=1)
        return values


def harm_wealth(wealth: Wealth, failures: FloatArray, is_candidate: BoolArray, *, block: int) -> tuple[Wealth, float]:
    """Play the next units in their order of arrival; returns the new wealth and the highest *average* e-value on the
    way.

    ``failures`` has shape (signals, units): the share of a unit's requests that failed, in 0..1. ``is_candidate`` has
    shape (units,). Units are taken in blocks. Before each block a bet is placed for every ratio r of ``RATIOS``: the
    control fails at rate ta, the candidate at tb = r ta, so that both together fail as often as has been seen so far;
    nothing is bet while the candidate has failed no more often than the control. (Turner, Ly and Grünwald bet on both
    observed rates; one unknown rate and a few fixed ratios are learnt faster: a fifth fewer units in docs/canary.md.)

    Every e-value's expectation is at most one whenever the candidate truly fails no more often than the control: for ta
    < tb fixed before the block and t0 their mean over its units, the expected factor is log-concave in the common true
    rate with its maximum, one, at t0; a control that fails more, a candidate that fails less and shares instead of
    zeros and ones only lower it (the last by the inequality of weighted arithmetic and geometric means). Averages of
    e-values are e-values, over ratios and over signals, so the average may be compared with 1 / alpha at every moment.
    """
    units = failures.shape[1]
    log_e = np.array(wealth.log_e)
    if units == 0:
        return wealth, _mean_e(log_e)
    starts = np.arange(0, units, block)
    treated = is_candidate.astype(np.float64)
    n1, n0 = (np.add.reduceat(part, starts) for part in (treated, 1.0 - treated))
    k1, k0 = (np.add.reduceat(failures * part, starts, axis=1) for part in (treated, 1.0 - treated))
    seen1, seen0 = wealth.n_candidate + _exclusive(n1), wealth.n_control + _exclusive(n0)
    failed1 = np.array(wealth.failed_candidate)[:, None] + _exclusive(k1)
    failed0 = np.array(wealth.failed_control)[:, None] + _exclusive(k0)
    pooled = (failed0 + failed1 + _PRIOR_FAILURES) / (seen0 + seen1 + _PRIOR_UNITS)
    part1 = n1 / (n0 + n1)
    worse = failed1 * seen0 >= failed0 * seen1
    paths = np.empty((len(log_e), len(RATIOS), len(starts)))
    for r, ratio in enumerate(RATIOS):
        ta = np.minimum(pooled / (1 - part1 + part1 * ratio), _MOST / ratio)
        tb = ratio * ta
        t0 = (1 - part1) * ta + part1 * tb
        gain = k0 * np.log(ta / t0) + (n0 - k0) * np.log((1 - ta) / (1 - t0))
        gain += k1 * np.log(tb / t0) + (n1 - k1) * np.log((1 - tb) / (1 - t0))
        paths[:, r] = log_e[:, r, None] + np.cumsum(np.where(worse, gain, 0.0), axis=1)
    after = Wealth(
        tuple(tuple(row) for row in paths[:, :, -1].tolist()),
        tuple((np.array(wealth.failed_control) + k0.sum(axis=1)).tolist()),
        tuple((np.array(wealth.failed_candidate) + k1.sum(axis=1)).tolist()),
        wealth.n_control + int(n0.sum()),
        wealth.n_candidate + int(n1.sum()),
    )
    return after, float(_exps(paths).mean(axis=(0, 1)).max())


def _exclusive(values: FloatArray) -> FloatArray:
    """Sums of what came before each block, along the last axis."""
    sums: FloatArray = np.cumsum(values, axis=-1) - values
    return sums


def _exps(logs: FloatArray) -> FloatArray:
    values: FloatArray = np.exp(np.minimum(logs, 700.0))
    return values


def _mean_e(log_e: FloatArray) -> float:
    return float(_exps(log_e).mean()) if log_e.size else 1.0


# --- looked at once --------------------------------------------------------------------------------------------------


def not_worse(d: Difference, *, margin: float) -> float:
    """z of the non-inferiority test (effect + margin) / se; above 1.645 the candidate is not worse by the margin
    (one-sided 5%).
    """
    if not math.isfinite(d.se):
        return -math.inf
    if d.se == 0:
        return math.inf if d.effect + margin > 0 else -math.inf
    return (d.effect + margin) / d.se


def balance_p(n_control: int, n_candidate: int, *, share: float = 0.5) -> float:
    """p-value of the chi-square test that ``share`` of the units went to the candidate (sample ratio mismatch)."""
    n = n_control + n_candidate
    if n == 0:
        return 1.0
    expected1 = n * share
    expected0 = n - expected1
    chi2 = (n_candidate - expected1) ** 2 / expected1 + (n_control - expected0) ** 2 / expected0
    return math.erfc(math.sqrt(chi2 / 2))


# --- the split, looked at continuously
# ---------------------------------------------------------------------------------


def balance_e(n_control: int, n_candidate: int, *, strength: float = 100.0) -> float:
    """E-value against an even split that may be looked at after every unit: B(a + n1, a + n0) / B(a, a) 2^n, a =
    ``strength``.

    The Bayes factor of a beta mixture around one half (Lindon and Malek, "Anytime-valid inference for multinomial count
    data", arXiv 2011.03567). A chi-square test looked at every hour rejects an even split many times more often than
    its level says.
    """
    n = n_control + n_candidate
    log = _log_beta(strength + n_candidate, strength + n_control) - _log_beta(strength, strength) + n * math.log(2)
    return _exp(log)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
