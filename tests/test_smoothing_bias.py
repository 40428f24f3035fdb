"""How far the mean entropy of votes lies below the truth, and that plans draw enough for their classes.

The expectation of an estimate that is a sum over classes needs each class's binomial alone, so it is exact;
Grassberger's G is taken from its recursion here, and the entropies are those of the laws themselves.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import exp1
from scipy.stats import binom

from raybd.metrics.smoothing import entropy
from raybd.metrics.smoothing.entropy import bias_bound, grassberger, plug_in_entropy
from raybd.metrics.smoothing.sampling_plan import BIAS, PLANS
from raybd.metrics.smoothness import Smoothness
from raybd.trials.run import run_trial
from raybd.types import Data
from tests.test_trial import QUICK

Law = NDArray[np.float64]
CLASSES = (2, 10, 43, 100, 200)
PARITY = 0.5  # by how much, over n, an even number of draws may lie above the truth for each of a few large classes


def recursion(n: int) -> Law:
    """G(0), ..., G(n): G(1) = -gamma - ln 2, G(2) = 2 - gamma - ln 2, G(2m+1) = G(2m), G(2m+2) = G(2m) + 2/(2m+1)."""
    g = [0.0, -np.euler_gamma - math.log(2), 2 - np.euler_gamma - math.log(2)]
    while len(g) <= n:
        m = len(g)
        g.append(g[m - 1] if m % 2 else g[m - 2] + 2 / (m - 1))
    return np.array(g[: n + 1])


def expected_bias(law: Law, n: int) -> float:
    """E of the estimate over n votes, less the entropy of `law`."""
    m, g = np.arange(n + 1), recursion(n)
    mean = math.log(n) - sum(float((binom.pmf(m, n, p) * m * g).sum()) for p in law) / n
    return mean + float((law * np.log(law)).sum())


def laws(classes: int, n: int) -> list[Law]:
    """Uniform, skewed, and the one that the bound is made of: all classes but one at p = 0.217 / n."""
    rng = np.random.default_rng(classes)
    found = [np.full(classes, 1 / classes)]
    found += [np.maximum(rng.dirichlet(np.full(classes, a)), 1e-12) for a in (0.1, 0.5, 2.0)]
    if (rest := 1 - 0.2174 * (classes - 1) / n) > 0:
        found.append(np.array([rest, *np.full(classes - 1, 0.2174 / n)]))
    return [law / law.sum() for law in found]


@pytest.mark.parametrize("n", [16, 32, 160, 352])
@pytest.mark.parametrize("classes", CLASSES)
def test_no_law_is_farther_below_the_truth_than_the_bound(classes: int, n: int) -> None:
    for law in laws(classes, n):
        assert -bias_bound(n, classes) < expected_bias(law, n) < max(2 * PARITY / n, 0.02)


def test_the_bound_is_reached_nearly() -> None:
    law = laws(100, 352)[-1]
    assert -expected_bias(law, 352) > 0.95 * bias_bound(352, 100) - PARITY / 352


def test_the_worst_class_is_where_the_integral_says() -> None:
    x = np.linspace(0.01, 2, 100_000)
    largest = float((x * exp1(2 * x)).max())
    assert largest < entropy.WORST_CLASS < 1.001 * largest


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("name", list(PLANS))
def test_plans_draw_enough_for_their_classes(name: str, classes: int) -> None:
    plan = PLANS[name].for_classes(classes)
    draws = plan.looks[0]
    assert bias_bound(draws, classes) <= BIAS
    assert list(plan.looks) == sorted(set(plan.looks))
    assert all(look % 2 == 0 for look in plan.looks)
    assert min(expected_bias(law, draws) for law in laws(classes, draws)) > -BIAS
    if classes <= 10:
        assert plan == PLANS[name]
    else:  # and no more than that: a step of the plan's own size less would not do, or is less than the plan
        assert draws == PLANS[name].looks[0] or bias_bound(draws - PLANS[name].looks[0], classes) > BIAS


@pytest.mark.parametrize(("classes", "low"), [(43, 0.07), (100, 0.3)])
def test_what_32_draws_lacked_is_there(classes: int, low: float) -> None:
    """2,000 points, each with a law of its own; the plug-in beside it is far lower."""
    rng, n = np.random.default_rng(0), PLANS["cheap"].for_classes(classes).looks[0]
    chances = rng.dirichlet(np.full(classes, 5.0), 2000)
    truth = float(-(chances * np.log(chances)).sum(1).mean())
    mean = {draws: float(grassberger(rng.multinomial(draws, chances)).mean()) for draws in (32, n)}
    assert mean[32] - truth < -low
    assert abs(mean[n] - truth) < BIAS
    assert float(plug_in_entropy(rng.multinomial(n, chances)).mean()) - truth < -2 * BIAS


def test_a_trial_says_its_draws_and_its_bound(digits: Data) -> None:
    named = replace(digits, classes=tuple(str(c) for c in range(43)))
    for data, own, draws in ((digits, None, 32), (named, None, 160), (named, 16, 16)):
        metric = Smoothness(points=20, sigmas=(0.5,), draws=own)
        found = run_trial(replace(QUICK, metrics=(metric,)), data).metrics
        assert found["smoothness/draws"] == draws
        assert found["smoothness/bias_bound"] == pytest.approx(0.1408 * (len(data.classes) - 1) / draws, rel=1e-3)
