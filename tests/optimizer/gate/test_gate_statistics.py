"""The gate's statistics against statsmodels, scipy and arithmetic by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar

from optimizer.gate import paired


def test_clustered_error_is_the_sandwich_of_a_regression_on_a_constant() -> None:
    rng = np.random.default_rng(1)
    codes = np.sort(rng.integers(0, 25, 90)).astype(np.intp)
    d = rng.normal(0.05, 0.4, 90) + rng.normal(0, 0.3, 25)[codes]
    ours = paired.task_effect("t", d, codes)
    fit = sm.OLS(d, np.ones(90)).fit(cov_type="cluster", cov_kwds={"groups": codes, "use_correction": False})
    groups = len(np.unique(codes))
    assert ours.mean == pytest.approx(fit.params[0])
    assert ours.se == pytest.approx(fit.bse[0] * math.sqrt(groups / (groups - 1)))
    assert ours.groups == groups


def test_without_clusters_the_error_is_that_of_a_mean() -> None:
    d = np.random.default_rng(2).normal(size=40)
    assert paired.task_effect("t", d, paired.cluster_codes(None, 40)).se == pytest.approx(scipy.stats.sem(d))


def test_clusters_widen_the_error_when_duplicates_agree() -> None:
    d = np.repeat(np.random.default_rng(3).normal(size=30), 4)
    alone = paired.task_effect("t", d, paired.cluster_codes(None, 120))
    grouped = paired.task_effect("t", d, np.repeat(np.arange(30), 4).astype(np.intp))
    assert grouped.mean == pytest.approx(alone.mean)
    assert grouped.se == pytest.approx(2 * alone.se, rel=0.03)


def test_weights_count_like_copies_in_one_cluster() -> None:
    d, w = np.array([0.5, -0.2, 0.1, 0.4]), np.array([3.0, 1.0, 2.0, 1.0])
    weighted = paired.task_effect("t", d, np.arange(4, dtype=np.intp), weights=w)
    copied = paired.task_effect("t", np.repeat(d, [3, 1, 2, 1]), np.repeat(np.arange(4), [3, 1, 2, 1]).astype(np.intp))
    assert weighted.mean == pytest.approx(copied.mean)
    assert weighted.se == pytest.approx(copied.se)


def test_macro_effect_by_hand() -> None:
    first = paired.task_effect("a", np.array([1.0, 0.0, 1.0, 0.0]), np.arange(4, dtype=np.intp))
    second = paired.task_effect("b", np.array([0.0, 0.0, 1.0]), np.arange(3, dtype=np.intp))
    macro = paired.macro_effect([first, second])
    assert macro.mean == pytest.approx((0.5 + 1 / 3) / 2)
    assert macro.se == pytest.approx(math.sqrt(first.se**2 + second.se**2) / 2)
    assert macro.df == 3 + 2
    low, high = macro.interval(0.05)
    half = scipy.stats.t.ppf(0.975, 5) * macro.se
    assert (low, high) == (pytest.approx(macro.mean - half), pytest.approx(macro.mean + half))


def test_unscored_pairs_are_left_out() -> None:
    d = np.array([0.5, np.nan, -0.5, 0.5])
    effect = paired.task_effect("t", d, np.arange(4, dtype=np.intp))
    assert effect.n == 3
    assert effect.mean == pytest.approx(0.5 / 3)


def test_one_cluster_says_nothing_about_noise() -> None:
    effect = paired.task_effect("t", np.ones(5), np.zeros(5, dtype=np.intp))
    assert math.isinf(effect.se)
    assert paired.macro_effect([effect]).interval(0.05) == (-math.inf, math.inf)


@given(b=st.integers(0, 40), c=st.integers(0, 40))
def test_mcnemar_is_the_exact_one(b: int, c: int) -> None:
    p = paired.mcnemar_p(b, c)
    if b + c == 0:
        assert p == 1.0
        return
    assert p == pytest.approx(scipy.stats.binomtest(b, b + c, 0.5, alternative="greater").pvalue)
    two_sided = mcnemar([[0, b], [c, 0]], exact=True).pvalue
    assert two_sided == pytest.approx(min(1.0, 2 * min(p, paired.mcnemar_p(c, b))))


def test_length_adjustment_is_clustered_weighted_least_squares() -> None:
    rng = np.random.default_rng(5)
    n = 120
    codes = np.sort(rng.integers(0, 40, n)).astype(np.intp)
    codes = np.unique(codes, return_inverse=True)[1]
    x = rng.normal(0.1, 0.3, n)
    d = 0.03 + 0.2 * x + rng.normal(0, 0.4, n)
    w = rng.uniform(0.5, 1.5, n)
    ours = paired.length_adjusted(d, x, codes, w)
    fit = sm.WLS(d, sm.add_constant(x), weights=w).fit(cov_type="cluster", cov_kwds={"groups": codes})
    assert ours.intercept == pytest.approx(fit.params[0])
    assert ours.slope == pytest.approx(fit.params[1])
    assert ours.se == pytest.approx(fit.bse[0])


def test_equal_lengths_leave_the_plain_effect() -> None:
    d = np.random.default_rng(6).normal(0.1, 0.3, 50)
    fit = paired.length_adjusted(d, np.zeros(50), np.arange(50, dtype=np.intp), np.ones(50))
    assert fit.intercept == pytest.approx(d.mean())
    assert fit.se == pytest.approx(scipy.stats.sem(d))


def test_a_constant_change_of_length_cannot_be_told_from_the_gain() -> None:
    fit = paired.length_adjusted(np.full(50, 0.2), np.full(50, 0.7), np.arange(50, dtype=np.intp), np.ones(50))
    assert math.isinf(fit.se)


def test_bootstrap_agrees_with_the_normal_interval_and_repeats_itself() -> None:
    d = np.random.default_rng(7).normal(0.1, 0.5, 200)
    effect = paired.task_effect("t", d, np.arange(200, dtype=np.intp))
    lower = paired.bootstrap_lower([effect], alpha=0.05, draws=4000, seed=1)
    assert lower == pytest.approx(effect.mean - 1.96 * effect.se, abs=0.01)
    assert lower == paired.bootstrap_lower([effect], alpha=0.05, draws=4000, seed=1)


@given(
    mean=st.floats(-0.3, 0.3), se=st.floats(0.005, 0.2), centre=st.floats(-0.1, 0.1), spread=st.floats(0.02, 0.1),
)  # fmt: skip
def test_shrinkage_is_the_normal_posterior(mean: float, se: float, centre: float, spread: float) -> None:
    effect = paired.TaskEffect("t", 100, mean, se, np.zeros(2), np.ones(2))
    chance = paired.chance_below(effect, -0.05, centre=centre, spread=spread**2)
    grid = np.linspace(-2, 2, 20_001)
    density = scipy.stats.norm.pdf(grid, centre, spread) * scipy.stats.norm.pdf(mean, grid, se)
    total = density.sum()
    if total > 1e-200:
        assert chance == pytest.approx(density[grid < -0.05].sum() / total, abs=2e-2)


def test_spread_has_a_floor_and_sees_real_differences() -> None:
    def effect(mean: float) -> paired.TaskEffect:
        return paired.TaskEffect("t", 100, mean, 0.04, np.zeros(2), np.ones(2))

    assert paired.spread_between([effect(0.05)] * 6, 0.02) == pytest.approx(0.02**2)
    wide = paired.spread_between([effect(0.08)] * 5 + [effect(-0.2)], 0.02)
    assert wide == pytest.approx(np.var([0.08] * 5 + [-0.2], ddof=1) - 0.04**2)


def test_t_quantile() -> None:
    assert paired.t_quantile(0.975, 7) == pytest.approx(scipy.stats.t.ppf(0.975, 7))
