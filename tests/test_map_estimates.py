"""Intervals of the map against the formulas, written out."""

import math

import numpy as np
import pytest
from scipy import stats

from analysis.statistics import chance_defended, estimate, jeffreys, least_seeds, wilson

Z = 1.6448536269514722  # 95 % quantile of the normal distribution
NONE = np.array([np.nan])


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


def test_one_seed_has_the_wilson_interval_alone():
    found = estimate(np.array([0.3]), np.array([10.0]))
    assert (found.value, found.low, found.high) == pytest.approx((0.3, *wilson_by_definition(3, 10)))


def test_spread_of_seeds_is_students_interval_of_the_logits():
    rates, counts = np.array([0.1, 0.5, 0.7]), np.array([1000.0, 1000.0, 1000.0])
    logits = [math.log((s + 0.5) / (1000.5 - s)) for s in (100, 500, 700)]  # p = (s + .5) / 1001
    mean = sum(logits) / 3
    deviation = math.sqrt(sum((v - mean) ** 2 for v in logits) / 2)
    half = 2.919985580353726 * deviation / math.sqrt(3)  # t(0.95, 2 degrees of freedom)
    found = estimate(rates, counts)
    assert found.value == pytest.approx(1.3 / 3)
    assert found.low == pytest.approx(1 / (1 + math.exp(-(mean - half))))
    assert found.high == pytest.approx(1 / (1 + math.exp(-(mean + half))))


def test_equal_seeds_leave_the_pooled_wilson_interval():
    found = estimate(np.array([0.25, 0.25]), np.array([8.0, 40.0]))
    assert (found.low, found.high) == pytest.approx(wilson_by_definition(12, 48))


def test_the_interval_holds_the_mean_and_stays_a_rate():
    rng = np.random.default_rng(1)
    for _ in range(300):
        counts = rng.integers(1, 50, rng.integers(1, 6)).astype(float)
        rates = rng.binomial(counts.astype(int), rng.choice([0.0, 0.02, 0.5, 1.0])) / counts
        found = estimate(rates, counts)
        low, high = wilson_by_definition((rates * counts).sum(), counts.sum())
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert found.low <= low + 1e-12
        assert found.high >= high - 1e-12


def test_a_far_seed_does_not_push_the_mean_out_of_its_interval():
    rates = np.array([0.0] * 11 + [1.0])  # the mean of the logits is far below the logit of the mean
    found = estimate(rates, np.full(12, 1e9))
    assert found.high >= found.value == pytest.approx(1 / 12)


def test_without_counts_only_the_seeds_speak():
    half = 6.313751514675043 * math.sqrt(0.02**2 / 2) / math.sqrt(2)  # t(0.95, 1), s of two 0.02 apart
    found = estimate(np.array([0.40, 0.42]), np.array([np.nan, 100.0]))
    assert (found.value, found.low, found.high) == pytest.approx((0.41, 0.41 - half, 0.41 + half))
    assert estimate(np.array([0.0, 0.02]), np.array([np.nan, np.nan])).low == 0.0
    alone = estimate(np.array([0.4]), NONE)
    assert (alone.value, alone.low, alone.high) == (0.4, 0.0, 1.0)


def test_nothing_measured_is_nothing_known():
    found = estimate(NONE, NONE)
    assert math.isnan(found.value)
    assert (found.low, found.high) == (0.0, 1.0)


def test_jeffreys_quantiles():
    # Beta(1/2, 3/2) and Beta(3/2, 1/2) mirror each other; Beta(1/2, 1/2) has F(x) = (2 / pi) asin(sqrt x)
    assert jeffreys(0, 0, 0.05) == pytest.approx(math.sin(0.05 * math.pi / 2) ** 2)
    assert jeffreys(0, 1, 0.95) == pytest.approx(1 - jeffreys(1, 1, 0.05))
    assert jeffreys(5, 5, 0.05) == pytest.approx(0.69, abs=0.005)
    assert jeffreys(4, 5, 0.05) == pytest.approx(0.44, abs=0.005)
    assert chance_defended(2, 3) == 2.5 / 4


def test_three_is_the_fewest_that_decide():
    assert stats.beta(2.5, 0.5).ppf(0.05) < 0.5 < stats.beta(3.5, 0.5).ppf(0.05)
    assert least_seeds() == 3
