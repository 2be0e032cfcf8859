"""Paired statistics of a holdout: the same examples answered under the incumbent and under the candidate.

Arrays of scores have shape (n,), one entry per example, values in 0..1, NaN where an answer is unscored. Nothing here
draws randomness of its own: the bootstrap takes a seed, so the same evidence gives the same verdict on every machine.

Sources: cluster-robust standard errors of paired differences after Miller, "Adding Error Bars to Evals" (arXiv
2411.00640); exact McNemar test (McNemar 1947); normal-normal shrinkage after Efron and Morris (1975); cluster sandwich
with the CR1 correction as in Cameron and Miller (2015).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

Z95_ONE_SIDED = 1.6448536269514722
_RESAMPLES_KEPT = 2_000_000
"""Largest table of bootstrap weights (cells) that is kept for the next call; bigger ones are drawn again."""


@dataclass(frozen=True, slots=True)
class TaskEffect:
    """Mean paired difference of one task with its cluster-robust standard error.

    ``sums`` and ``sizes`` have one entry per cluster: weighted sum of differences and total weight. ``se`` is infinite
    when there are fewer than two clusters, because nothing can then be said about the noise.
    """

    name: str
    n: int
    mean: float
    se: float
    sums: FloatArray
    sizes: FloatArray
    weight: float = 1.0

    @property
    def groups(self) -> int:
        """Number of clusters."""
        return len(self.sums)


@dataclass(frozen=True, slots=True)
class MacroEffect:
    """Weighted mean of task effects with its standard error and the degrees of freedom sum(G_t - 1)."""

    mean: float
    se: float
    df: int

    def interval(self, alpha: float) -> tuple[float, float]:
        """Two-sided interval at level 1 - alpha with Student's quantile; infinite when nothing is known of the
        noise.
        """
        if self.df < 1 or not math.isfinite(self.se):
            return -math.inf, math.inf
        half = t_quantile(1 - alpha / 2, self.df) * self.se
        return self.mean - half, self.mean + half

    def upper(self, z: float = Z95_ONE_SIDED) -> float:
        """One-sided upper bound by the normal quantile ``z``."""
        return self.mean + z * self.se if math.isfinite(self.se) else math.inf


def t_quantile(p: float, df: float) -> float:
    """Quantile of Student's t; scipy is imported on first use, so that reading this module stays cheap."""
    from scipy.special import stdtrit

    return float(stdtrit(df, p))


def normal_cdf(x: float) -> float:
    """Distribution function of the standard normal."""
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


def cluster_codes(clusters: Sequence[object] | npt.NDArray[np.generic] | None, n: int) -> IntArray:
    """Integers 0..G-1, one per example; without clusters every example stands for itself."""
    if clusters is None:
        return np.arange(n, dtype=np.intp)
    if len(clusters) != n:
        raise ValueError(f"{len(clusters)} cluster names for {n} examples")
    values = clusters if isinstance(clusters, np.ndarray) else np.asarray([str(c) for c in clusters])
    codes: IntArray = np.unique(values, return_inverse=True)[1].astype(np.intp)
    return codes


def task_effect(
    name: str,
    differences: FloatArray,
    codes: IntArray,
    *,
    weights: FloatArray | None = None,
    weight: float = 1.0,
) -> TaskEffect:
    """Effect of one task from differences (n,); NaN differences (either answer unscored) are left out.

    With weights w_i = 1 the variance is (G/(G-1)) (1/n^2) sum_g (sum_{i in g} (d_i - mean))^2.
    """
    kept = np.isfinite(differences)
    d = differences[kept]
    n = len(d)
    if n == 0:
        empty = np.zeros(0)
        return TaskEffect(name, 0, math.nan, math.inf, empty, empty, weight)
    w = np.ones(n) if weights is None else weights[kept]
    _, group = np.unique(codes[kept], return_inverse=True)
    sizes: FloatArray = np.bincount(group, weights=w).astype(np.float64)
    sums: FloatArray = np.bincount(group, weights=w * d).astype(np.float64)
    total = float(sizes.sum())
    mean = float(sums.sum()) / total
    groups = len(sizes)
    if groups < 2:
        return TaskEffect(name, n, mean, math.inf, sums, sizes, weight)
    residuals = sums - mean * sizes
    variance = groups / (groups - 1) * float(residuals @ residuals) / total**2
    return TaskEffect(name, n, mean, math.sqrt(variance), sums, sizes, weight)


def macro_effect(effects: Sequence[TaskEffect]) -> MacroEffect:
    """D = sum_t w_t mean_t with SE^2 = sum_t w_t^2 SE_t^2; weights are normalised to one."""
    known = [e for e in effects if e.n > 0]
    if not known:
        return MacroEffect(math.nan, math.inf, 0)
    weights = np.array([e.weight for e in known], dtype=float)
    weights /= weights.sum()
    mean = float(sum(w * e.mean for w, e in zip(weights, known, strict=True)))
    variance = sum(float(w) ** 2 * e.se**2 for w, e in zip(weights, known, strict=True))
    return MacroEffect(mean, math.sqrt(variance), sum(e.groups - 1 for e in known))


def bootstrap_lower(effects: Sequence[TaskEffect], *, alpha: float, draws: int, seed: int) -> float:
    """The alpha/2 quantile of the macro effect when clusters are drawn again within each task (percentile
    bootstrap).
    """
    known = [e for e in effects if e.n > 0]
    weights = np.array([e.weight for e in known], dtype=float)
    weights /= weights.sum()
    replicates = np.zeros(draws)
    for position, (weight, effect) in enumerate(zip(weights, known, strict=True)):
        counts = _resamples(effect.groups, draws, seed + position)
        sizes = np.maximum(counts @ effect.sizes, 1e-12)
        replicates += float(weight) * (counts @ effect.sums) / sizes
    return float(np.quantile(replicates, alpha / 2))


def _resamples(groups: int, draws: int, seed: int) -> FloatArray:
    """How often each of the clusters is drawn in each replicate, shape (draws, groups)."""
    if groups * draws <= _RESAMPLES_KEPT:
        return _kept_resamples(groups, draws, seed)
    return _draw_resamples(groups, draws, seed)


@lru_cache(maxsize=32)
def _kept_resamples(groups: int, draws: int, seed: int) -> FloatArray:
    counts = _draw_resamples(groups, draws, seed)
    counts.setflags(write=False)
    return counts


def _draw_resamples(groups: int, draws: int, seed: int) -> FloatArray:
    rng = np.random.default_rng([seed, groups, draws])
    return rng.multinomial(groups, np.full(groups, 1 / groups), size=draws).astype(np.float64)


def mcnemar_p(only_candidate: int, only_incumbent: int) -> float:
    """Exact one-sided McNemar p-value that the candidate fails more often: P(Bin(b + c, 1/2) >= b), 1 without
    discord.
    """
    trials = only_candidate + only_incumbent
    ways = sum(math.comb(trials, k) for k in range(only_candidate, trials + 1))
    return float(ways / 2**trials)


def spread_between(effects: Sequence[TaskEffect], floor: float) -> float:
    """Prior variance tau^2 of true task effects: between-task variance less the mean sampling variance, at least
    floor^2.
    """
    means = np.array([e.mean for e in effects])
    noise = float(np.mean([e.se**2 for e in effects])) if effects else 0.0
    between = float(means.var(ddof=1)) if len(means) > 1 else 0.0
    return max(between - noise, floor**2)


def chance_below(effect: TaskEffect, limit: float, *, centre: float, spread: float) -> float:
    """Posterior P(true effect of the task < limit) under the prior N(centre, spread), empirical Bayes."""
    if not math.isfinite(effect.se):
        return normal_cdf((limit - centre) / math.sqrt(spread))
    if effect.se == 0.0:
        return float(effect.mean < limit)
    precision = 1 / spread + 1 / effect.se**2
    mean = (centre / spread + effect.mean / effect.se**2) / precision
    return normal_cdf((limit - mean) * math.sqrt(precision))


@dataclass(frozen=True, slots=True)
class AdjustedEffect:
    """Intercept of the regression of score difference on log length ratio: the gain at equal length."""

    intercept: float
    se: float
    df: int
    slope: float


def length_adjusted(d: FloatArray, log_ratio: FloatArray, codes: IntArray, weights: FloatArray) -> AdjustedEffect:
    """Weighted least squares d = a + b log_ratio + e, with the CR1 cluster sandwich for the error of a.

    All arguments have shape (n,), finite. When all log ratios are equal to zero the slope is zero; when they are equal
    but not zero, gain and length cannot be told apart and the error is infinite.
    """
    groups = len(np.unique(codes))
    n = len(d)
    spread = float(np.ptp(log_ratio)) if n else 0.0
    level = n > 0 and spread < 1e-12 and abs(float(log_ratio[0])) < 1e-12
    design = np.ones((n, 1)) if level else np.column_stack([np.ones(n), log_ratio])
    columns = design.shape[1]
    if groups < 2 or n <= columns or (not level and spread < 1e-12):
        return AdjustedEffect(
            float(np.average(d, weights=weights)) if n else math.nan, math.inf, max(groups - 1, 1), 0.0
        )
    weighted = design * weights[:, None]
    bread = np.linalg.inv(design.T @ weighted)
    beta = bread @ (weighted.T @ d)
    scores = weighted * (d - design @ beta)[:, None]
    sums = np.zeros((int(codes.max()) + 1, columns))
    np.add.at(sums, codes, scores)
    correction = groups / (groups - 1) * (n - 1) / (n - columns)
    covariance = correction * bread @ (sums.T @ sums) @ bread
    slope = 0.0 if level else float(beta[1])
    return AdjustedEffect(float(beta[0]), math.sqrt(max(float(covariance[0, 0]), 0.0)), groups - 1, slope)
