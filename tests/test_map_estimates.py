"""Intervals of the map against the formulas, written out."""

import math

import pytest
from scipy import stats

from analysis.statistics import wilson

Z = 1.6448536269514722  # 95 % quantile of the normal distribution


def wilson_by_definition(successes, trials):
    """The two rates p whose standard score (rate - p) / sqrt(p (1 - p) / n) is ± z: roots of a quadratic."""
    rate = successes / trials
    a, b, c = 1 + Z**2 / trials, -(2 * rate + Z**2 / trials), rate**2
    root = math.sqrt(b**2 - 4 * a * c)
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (81, 263), (999, 1000)])
def test_wilson_solves_its_quadratic(successes, trials):
    assert wilson(successes, trials) == pytest.approx(wilson_by_definition(successes, trials), abs=1e-12)


def test_wilson_agrees_with_scipy():
    expected = stats.binomtest(17, 50).proportion_ci(0.9, method="wilson")
    assert wilson(17, 50) == pytest.approx((expected.low, expected.high), abs=1e-12)
