"""Kappa, sensitivity, specificity and the corrected rate, against known values and against truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import proportion_confint

from jobs.agreement import agreement, corrected_rate, flip_rate, wilson


def _pairs(both: int, only_judge: int, only_people: int, neither: int) -> list[tuple[float, float]]:
    return [(1.0, 1.0)] * both + [(0.9, 0.1)] * only_judge + [(0.2, 0.8)] * only_people + [(0.0, 0.0)] * neither


def test_kappa_is_the_textbook_one() -> None:
    found = agreement(_pairs(40, 8, 12, 40))
    oracle = cohens_kappa(np.array([[40, 8], [12, 40]]))
    assert found.kappa == pytest.approx(oracle.kappa)
    assert found.sensitivity is not None and found.sensitivity[0] == pytest.approx(40 / 52)
    assert found.specificity is not None and found.specificity[0] == pytest.approx(40 / 48)


def test_precision_of_kappa_as_in_the_formula() -> None:
    found = agreement(_pairs(60, 5, 10, 25))
    assert found.kappa is not None and found.kappa_low is not None
    says, good = 0.65, 0.70
    chance = says * good + (1 - says) * (1 - good)
    assert found.kappa - found.kappa_low == pytest.approx(1.96 * math.sqrt(0.85 * 0.15 / 100) / (1 - chance), rel=1e-4)


def test_calibrated_needs_the_lower_bound_too() -> None:
    assert agreement(_pairs(95, 3, 2, 100)).calibrated
    assert not agreement(_pairs(10, 0, 0, 10)).calibrated, "20 labels are too few to be sure, however perfect"
    assert not agreement(_pairs(14, 4, 3, 14)).calibrated, "kappa .6 with a wide interval"
    assert not agreement(_pairs(50, 50, 50, 50)).calibrated


def test_nothing_labelled_is_not_calibrated() -> None:
    found = agreement([])
    assert (found.n, found.kappa, found.calibrated) == (0, None, False)
    assert agreement([(1.0, 1.0)] * 30).kappa is None, "one kind of label only shows nothing"


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (70, 100)])
def test_wilson_is_statsmodels(k: int, n: int) -> None:
    low, high = proportion_confint(k, n, method="wilson")
    found = wilson(k, n)
    assert found is not None and found[1:] == pytest.approx((low, high), abs=1e-9)


def test_the_corrected_rate_covers_the_truth() -> None:
    rng = np.random.default_rng(20261120)
    covered, truth = 0, 0.7
    for _ in range(400):
        labels = np.r_[np.ones(120), np.zeros(120)]
        seen = np.where(labels == 1, rng.random(240) < 0.9, rng.random(240) < 0.2)
        found = agreement(list(zip(seen.astype(float), labels, strict=True)))
        good = rng.random(500) < truth
        rate = float(np.where(good, rng.random(500) < 0.9, rng.random(500) < 0.2).mean())
        corrected = corrected_rate(rate, 500, found)
        assert corrected is not None
        covered += corrected[1] <= truth <= corrected[2]
    assert 0.91 <= covered / 400 <= 0.99


def test_a_coin_corrects_nothing() -> None:
    assert corrected_rate(0.5, 100, agreement(_pairs(10, 10, 10, 10))) is None
    assert corrected_rate(0.5, 100, agreement([(1.0, 1.0)] * 5)) is None


def test_flips() -> None:
    assert flip_rate([1.0, 0.0, None, 0.7], [1.0, 0.9, 1.0, 0.4]) == pytest.approx(2 / 3)
    assert flip_rate([None], [1.0]) is None
