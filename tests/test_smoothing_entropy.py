"""The estimators against exact expectations, simulation and each other; the intervals against their promise."""

import numpy as np
import pytest
from scipy.special import digamma
from scipy.stats import binom, norm

from raybd.metrics.smoothing.certificate import efficiency, lipschitz_violations
from raybd.metrics.smoothing.entropy import (
    agreement,
    clopper_pearson,
    gini,
    grassberger,
    normalised,
    plug_in_entropy,
    shares_entropy,
    unanimous,
)

SKEWED = np.array([0.9] + [0.1 / 9] * 9)
UNIFORM = np.full(10, 0.1)
REPETITIONS = 20_000


def draws(p: np.ndarray, n: int, repetitions: int = REPETITIONS) -> np.ndarray:
    return np.random.default_rng(n).multinomial(n, p, repetitions)


def exact_plug_in(p: np.ndarray, n: int) -> float:
    k = np.arange(1, n + 1)
    return float(-sum((binom.pmf(k, n, share) * k / n * np.log(k / n)).sum() for share in p))


def test_one_row_by_hand() -> None:
    counts = np.array([10, 4, 2])
    assert plug_in_entropy(counts) == pytest.approx(0.9003, abs=5e-5)
    assert grassberger(counts) == pytest.approx(0.8922, abs=5e-5)
    assert gini(counts) == pytest.approx(1 - (90 + 12 + 2) / (16 * 15))
    assert agreement(counts[None], np.array([1])) == 4 / 16


def test_grassberger_follows_his_recursion() -> None:
    g = {1: -np.euler_gamma - np.log(2), 2: 2 - np.euler_gamma - np.log(2)}
    assert (g[1], g[2]) == pytest.approx((-1.2703628, 0.7296372), abs=1e-7)
    for m in range(1, 40):
        g[2 * m + 1], g[2 * m + 2] = g[2 * m], g[2 * m] + 2 / (2 * m + 1)
    for n in range(1, 80):
        assert grassberger(np.array([n, 0])) == pytest.approx(np.log(n) - g[n], abs=1e-12)


def test_unanimous_votes() -> None:
    counts = np.array([[64, 0], [63, 1]])
    assert plug_in_entropy(counts)[0] == 0
    assert not np.signbit(plug_in_entropy(counts)[0])
    assert unanimous(counts).tolist() == [True, False]
    # The parity of n shows: this is why draws are even and points are not ranked by it.
    assert grassberger(np.array([63, 0])) == pytest.approx(0.016, abs=5e-4)
    assert grassberger(counts)[0] == pytest.approx(-4e-5, abs=2.5e-5)


def test_uniform_votes_are_one_when_normalised() -> None:
    assert normalised(plug_in_entropy(np.full(10, 5)), 10) == pytest.approx(1)
    assert shares_entropy(np.array([0.5, 0.5, 0.0])) == pytest.approx(np.log(2))


@pytest.mark.parametrize(
    ("p", "n", "expected"),
    [
        ((0.6, 0.3, 0.1), 16, 0.828787),
        ((0.6, 0.3, 0.1), 64, 0.881986),
        ((0.6, 0.3, 0.1), 256, 0.894021),
        ((0.1,) * 10, 16, 1.971247),
        ((0.1,) * 10, 64, 2.229793),
        ((0.1,) * 10, 256, 2.284876),
    ],
)
def test_the_plug_in_has_its_exact_expectation(p: tuple[float, ...], n: int, expected: float) -> None:
    found = plug_in_entropy(draws(np.array(p), n))
    assert exact_plug_in(np.array(p), n) == pytest.approx(expected, abs=1e-6)
    assert found.mean() == pytest.approx(expected, abs=4.5 * found.std() / np.sqrt(REPETITIONS))


@pytest.mark.parametrize(
    ("p", "n", "biases"),
    [
        (SKEWED, 16, (-0.184, -0.046)),
        (SKEWED, 64, (-0.077, -0.003)),
        (SKEWED, 256, (-0.018, 0.003)),
        (UNIFORM, 64, (-0.073, 0.008)),
        (np.array([0.99, 0.01]), 64, (-0.009, 0.004)),
    ],
)
def test_biases_by_simulation(p: np.ndarray, n: int, biases: tuple[float, ...]) -> None:
    counts = draws(p, n)
    for estimator, bias in zip((plug_in_entropy, grassberger), biases, strict=True):
        found = estimator(counts) - shares_entropy(p)
        # Both are simulated, the expected ones to three digits.
        assert found.mean() == pytest.approx(bias, abs=0.001 + 4.5 * np.sqrt(2) * found.std() / np.sqrt(REPETITIONS))


def test_gini_is_unbiased() -> None:
    found = gini(draws(SKEWED, 8))
    assert found.mean() == pytest.approx(1 - (SKEWED**2).sum(), abs=4.5 * found.std() / np.sqrt(REPETITIONS))


def test_the_sequential_estimator_agrees() -> None:
    # Draw a class, then until it comes again after L draws: sum_{k<L} 1/k = psi(L) + gamma is unbiased for H.
    p, rng = np.array([0.6, 0.3, 0.1]), np.random.default_rng(0)
    waits = rng.geometric(p[rng.choice(3, REPETITIONS, p=p)])
    found = digamma(waits) + np.euler_gamma
    counts = grassberger(draws(p, 256))
    assert found.mean() == pytest.approx(0.8979, abs=4.5 * found.std() / np.sqrt(REPETITIONS))
    assert counts.mean() == pytest.approx(found.mean(), abs=4.5 * found.std() / np.sqrt(REPETITIONS))


def test_t8_clopper_pearson_covers() -> None:
    p, n = float(norm.cdf(1)), 1000
    k = np.random.default_rng(1).binomial(n, p, 200_000)
    low, high = clopper_pearson(k, n, 0.001)
    assert (low > p).mean() <= 0.0011  # 0.000815 by the exact binomial, seen with an error of 0.00007
    assert (high < p).mean() <= 0.0011
    exact = binom.pmf(np.arange(n + 1), n, p) @ (clopper_pearson(np.arange(n + 1), n, 0.001)[0] > p)
    assert exact == pytest.approx(0.000815, abs=2e-4)
    assert clopper_pearson(np.array([0, 5]), 5, 0.05)[0][0] == 0
    assert clopper_pearson(np.array([0, 5]), 5, 0.05)[1][1] == 1


def plane_votes(margins: np.ndarray, sigma: float, n: int = 4096) -> np.ndarray:
    k = np.random.default_rng(3).binomial(n, norm.cdf(margins / sigma))
    return np.stack([n - k, k], 1)


def test_the_whole_length_of_a_trigger_along_the_normal_works() -> None:
    before, length, sigma = np.full(50, -0.1), np.full(50, 0.2), 0.15
    clean, triggered = plane_votes(before, sigma), plane_votes(before + length, sigma)
    wanted = np.ones(50, dtype=np.int64)
    assert efficiency(clean, triggered, wanted, length, sigma).mean() == pytest.approx(1, abs=0.02)
    assert efficiency(clean, triggered, wanted, 2 * length, sigma).mean() == pytest.approx(0.5, abs=0.01)
    assert np.isnan(efficiency(clean, clean, wanted, 0 * length, sigma)).all()
    sure = efficiency(np.array([[64, 0]]), np.array([[0, 64]]), wanted[:1], np.array([2.0]), sigma)
    assert sure == pytest.approx(sigma * norm.ppf(64.5 / 65))  # half a vote from certainty at both ends


def test_the_lipschitz_bound_holds_and_a_wrong_sigma_breaks_it() -> None:
    before, length, sigma = np.full(50, -0.1), np.full(50, 0.2), 0.15
    clean, triggered = plane_votes(before, sigma), plane_votes(before + length, sigma)
    assert lipschitz_violations(clean, triggered, length, sigma) == 0
    assert lipschitz_violations(clean, triggered, length, 1.5 * sigma) == 100  # drawn with less noise than said
    assert lipschitz_violations(triggered, clean, 0 * length, sigma) == 100
