"""Sequential statistics against scipy, arithmetic by hand, and what they promise: their level under continuous
looking.
"""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import statistics
from jobs.statistics import Difference, Wealth


def bernoulli(n: int, p: float, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random(n) < p).astype(float)


def test_difference_is_welchs() -> None:
    a, b = bernoulli(300, 0.8, 1), bernoulli(200, 0.7, 2)
    d = statistics.difference(a, b)
    welch = scipy.stats.ttest_ind(b, a, equal_var=False)
    assert d.effect / d.se == pytest.approx(welch.statistic)
    assert (d.n_control, d.n_candidate, d.n) == (300, 200, 500)


def test_too_few_units_say_nothing() -> None:
    d = statistics.difference(np.ones(1), np.zeros(50))
    assert math.isinf(d.se)
    assert statistics.upper_bound(d, alpha=0.05, n_star=2000) == math.inf
    assert statistics.lower_bound(d, alpha=0.05, n_star=2000) == -math.inf
    assert statistics.mixture_e(d, alpha=0.05, n_star=2000) == 1.0
    assert statistics.not_worse(d, margin=0.03) == -math.inf


def test_half_widths_by_hand() -> None:
    """The two formulas written out with numbers: N = 5,000, p = .8 in both arms, tuned at 2,000 units."""
    n, se = 5000, math.sqrt(0.16 / 2500 * 2)
    r = math.sqrt((-2 * math.log(0.05) + math.log(-2 * math.log(0.05) + 1)) / 2000)
    grown = n * r * r + 1
    two = math.sqrt(n) * se * math.sqrt(2 * grown / (n * r) ** 2 * math.log(math.sqrt(grown) / 0.05))
    assert statistics.half_width(n, se, alpha=0.05, n_star=2000) == pytest.approx(two)
    r1 = math.sqrt((-2 * math.log(0.1) + math.log(-2 * math.log(0.1) + 1)) / 2000)
    g1 = n * r1 * r1 + 1
    one = math.sqrt(n) * se * math.sqrt(2 * g1 / (n * r1) ** 2 * math.log(1 + math.sqrt(g1) / 0.1))
    assert statistics.half_width(n, se, alpha=0.05, n_star=2000, one_sided=True) == pytest.approx(one)
    assert one < two
    assert 0.025 < one < 0.045  # always valid costs about half as much again as a look taken once


@given(n=st.integers(50, 20_000), z=st.floats(-6, 6))
def test_mixture_e_belongs_to_the_two_sided_sequence(n: int, z: float) -> None:
    """E reaches 1 / alpha exactly where the interval leaves zero."""
    se = 0.9 / math.sqrt(n)
    d = Difference(z * se, se, n // 2, n - n // 2)
    e = statistics.mixture_e(d, alpha=0.05, n_star=2000)
    r2 = statistics.rho(0.05, 2000) ** 2
    width = math.sqrt(n) * se * math.sqrt(2 * (n * r2 + 1) / (n * n * r2) * math.log(math.sqrt(n * r2 + 1) / 0.05))
    assert width == pytest.approx(statistics.half_width(n, se, alpha=0.05, n_star=2000))
    if abs(abs(d.effect) - width) > 1e-9:
        assert (e >= 20) == (abs(d.effect) > width)


def test_the_sequence_holds_while_being_looked_at() -> None:
    """400 A/A experiments of 6,000 units, looked at every 100: at most 5% may ever alarm (measured: 2 to 3%)."""
    alarms = 0
    for run in range(400):
        a, b = bernoulli(3000, 0.8, 2 * run), bernoulli(3000, 0.8, 2 * run + 1)
        looks = (statistics.difference(a[:k], b[:k]) for k in range(100, 3001, 50))
        alarms += any(statistics.upper_bound(d, alpha=0.05, n_star=2000) < 0 for d in looks)
    assert alarms <= 20


# --- the e-process ---------------------------------------------------------------------------------------------------


def factor(pooled: float, block: tuple[int, int], y: tuple[float, ...], *, worse: bool = True) -> float:
    """The e-value of one block when both arms together had failed at the rate ``pooled`` before it."""
    seen, lean = 10**9, 1e-6 if worse else -1e-6
    wealth = Wealth(Wealth.start(1).log_e, (pooled * seen * (1 - lean),), (pooled * seen * (1 + lean),), seen, seen)
    treated = np.repeat([False, True], block)
    after, _ = statistics.harm_wealth(wealth, np.array([y]), treated, block=sum(block))
    return float(after.by_signal()[0])


@pytest.mark.parametrize("block", [(1, 1), (2, 1), (2, 3)])
def test_expected_factor_is_at_most_one_whenever_the_candidate_fails_no_more(block: tuple[int, int]) -> None:
    worst = 0.0
    rates = (0.0, 0.01, 0.04, 0.1, 0.3, 0.7, 1.0)
    for pooled, pa in itertools.product((0.001, 0.02, 0.1, 0.4, 0.8), rates):
        for pb in (p for p in rates if p <= pa):
            expected = 0.0
            for y in itertools.product((0.0, 1.0), repeat=sum(block)):
                truth = [pa] * block[0] + [pb] * block[1]
                chance = math.prod(p if v else 1 - p for v, p in zip(y, truth, strict=True))
                expected += chance * factor(pooled, block, y) if chance else 0.0
            worst = max(worst, expected)
    assert 0.99 < worst <= 1 + 1e-6


@given(y=st.lists(st.floats(0, 1), min_size=2, max_size=2), pooled=st.floats(0.001, 0.6))
def test_shares_lower_the_expectation(y: list[float], pooled: float) -> None:
    """The factor at a share is at most the mixture of the factors at zero and one (what a coin with that bias would
    give).
    """
    mixed = sum(
        (y[0] if a else 1 - y[0]) * (y[1] if b else 1 - y[1]) * factor(pooled, (1, 1), (float(a), float(b)))
        for a in (0, 1)
        for b in (0, 1)
    )
    assert factor(pooled, (1, 1), (y[0], y[1])) <= mixed + 1e-9


def test_nothing_is_bet_while_the_candidate_looks_no_worse() -> None:
    assert factor(0.1, (1, 1), (0.0, 1.0), worse=False) == 1.0
    assert factor(0.1, (1, 1), (0.0, 1.0)) > 1.0 > factor(0.1, (1, 1), (1.0, 0.0))


def test_in_pieces_or_at_once_is_the_same() -> None:
    rng = np.random.default_rng(5)
    failures = (rng.random((3, 400)) < 0.1).astype(float)
    treated = rng.random(400) < 0.5
    whole, peak = statistics.harm_wealth(Wealth.start(3), failures, treated, block=20)
    wealth, highest = Wealth.start(3), 1.0
    for start in range(0, 400, 100):
        part = slice(start, start + 100)
        wealth, top = statistics.harm_wealth(wealth, failures[:, part], treated[part], block=20)
        highest = max(highest, top)
    assert np.allclose(wealth.log_e, whole.log_e)
    assert highest == pytest.approx(max(peak, 1.0))
    assert (wealth.n_control, wealth.n_candidate) == (whole.n_control, whole.n_candidate)


def test_a_block_of_one_arm_changes_nothing() -> None:
    wealth, peak = statistics.harm_wealth(Wealth.start(1), np.ones((1, 5)), np.ones(5, dtype=bool), block=5)
    assert wealth.by_signal().tolist() == [1.0] and peak == 1.0
    same, _ = statistics.harm_wealth(wealth, np.zeros((1, 0)), np.zeros(0, dtype=bool), block=5)
    assert same == wealth


def test_the_average_e_process_keeps_its_level_and_finds_failures() -> None:
    def alarm(rate: float, seed: int) -> bool:
        rng = np.random.default_rng(seed)
        treated = np.tile([False, True], 1500)
        failures = (rng.random((4, 3000)) < np.where(treated, rate, 0.02)).astype(float)
        failures[1:] = rng.random((3, 3000)) < 0.02
        return statistics.harm_wealth(Wealth.start(4), failures, treated, block=20)[1] >= 100

    assert sum(alarm(0.02, s) for s in range(300)) <= 8
    assert sum(alarm(0.10, s) for s in range(40)) >= 38


# --- the split and the final test ------------------------------------------------------------------------------------


@given(a=st.integers(1, 3000), b=st.integers(1, 3000))
def test_balance_is_the_chi_square_test(a: int, b: int) -> None:
    expected = scipy.stats.chisquare([a, b]).pvalue
    assert statistics.balance_p(a, b) == pytest.approx(expected, abs=1e-12)


def test_uneven_shares() -> None:
    assert statistics.balance_p(950, 50, share=0.05) == pytest.approx(1.0)
    assert statistics.balance_p(900, 100, share=0.05) < 1e-6
    assert statistics.balance_p(0, 0) == 1.0


def test_balance_e_is_a_ratio_of_probabilities() -> None:
    """Its expectation under an even split is one for every n."""
    for n in (1, 2, 5, 30):
        mean = sum(math.comb(n, k) / 2**n * statistics.balance_e(n - k, k) for k in range(n + 1))
        assert mean == pytest.approx(1.0)


def test_balance_may_be_looked_at_continuously() -> None:
    alarms = chi_alarms = 0
    for run in range(300):
        path = np.cumsum(np.random.default_rng(run).random(4000) < 0.5)
        looks = [(k, int(path[k - 1])) for k in range(40, 4001, 40)]
        alarms += any(statistics.balance_e(k - c, c) >= 1000 for k, c in looks)
        chi_alarms += any(statistics.balance_p(k - c, c) < 0.001 for k, c in looks)
    assert alarms <= 2
    assert chi_alarms > alarms  # what peeking at the fixed test costs
    assert statistics.balance_e(1100, 900) >= 1000  # a real mismatch of 55 to 45 is found


def test_not_worse() -> None:
    assert statistics.not_worse(Difference(0.0, 0.01, 2200, 2200), margin=0.03) == pytest.approx(3.0)
    assert statistics.not_worse(Difference(-0.05, 0.0, 10, 10), margin=0.03) == -math.inf
    assert statistics.not_worse(Difference(0.0, 0.0, 10, 10), margin=0.03) == math.inf


@settings(max_examples=30)
@given(st.floats(-0.2, 0.2), st.floats(1e-4, 0.1), st.integers(2, 10_000))
def test_bounds_are_ordered(effect: float, se: float, n: int) -> None:
    d = Difference(effect, se, n, n)
    low, high = statistics.lower_bound(d, alpha=0.05, n_star=2000), statistics.upper_bound(d, alpha=0.05, n_star=2000)
    assert low < effect < high


def test_no_heavy_library_is_needed(repository: Path) -> None:
    code = "import sys, jobs.canary; print(sorted({'scipy', 'statsmodels', 'pandas'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
