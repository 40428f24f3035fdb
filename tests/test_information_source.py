"""I(S;T) with the image's own draws left out: nulls, closed forms, a plain loop beside it, and invariances."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from raybd.metrics.information.bounds import MIEstimate
from raybd.metrics.information.plug_in_estimator import plug_in_scores, whitened_axes
from raybd.metrics.information.source_information import FOLDS, TEMPERATURES, label_gains, source_information


def scores_of(means: Tensor, seed: int = 0, passes: int = 32) -> Tensor:
    """Scores (4, N, N) of T = `means` (N, D) + N(0, 1), as a probe of a network makes them."""
    rng = torch.Generator().manual_seed(seed)
    t = means[None, :, None] + torch.randn(1, len(means), passes + 4, means.shape[1], generator=rng)
    axes = whitened_axes(t[:, :, :passes])
    return plug_in_scores(t[:, :, :passes] @ axes.T, t[:, :, passes:] @ axes.T)[0]


def estimate(scores: Tensor, labels: Tensor, seed: int = 0) -> MIEstimate:
    found = source_information(scores, labels, seed)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("n", "d", "deviation", "draws"), [(64, 7, 0.022, 16), (64, 64, 0.017, 16), (256, 64, 0.006, 4)]
)
def test_nothing_of_labels_that_t_does_not_know(n: int, d: int, deviation: float, draws: int) -> None:
    """Every image is told from the others, its random label is not: 0 (the critic's own share said 2.05 of 2.07)."""
    values = []
    for seed in range(draws):
        rng = torch.Generator().manual_seed(seed)
        found = estimate(scores_of(3 * torch.randn(n, d, generator=rng), seed), torch.randint(10, (n,), generator=rng))
        values.append(found.value)
        assert abs(found.permuted) < 2 * deviation
        assert found.ceiling > 1.9
    assert abs(np.mean(values)) < 2 * deviation / math.sqrt(draws) + 0.004
    assert np.abs(values).max() < 4 * deviation


@pytest.mark.parametrize("offset", [0.5, 1.0, 2.0])
def test_two_gaussians_against_their_integral(offset: float) -> None:
    """Means +-a, deviation 1 within a class, noise 1: I = ln 2 - E ln(1 + exp(-2 a (a + s e) / s^2)) with s^2 = 2."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    loss = np.log1p(np.exp(-2 * offset * (offset + math.sqrt(2) * nodes) / 2))
    truth = math.log(2) - weights @ loss / math.sqrt(2 * math.pi)
    labels, values, errors = torch.arange(256) % 2, [], []
    for seed in range(3):
        rng = torch.Generator().manual_seed(seed)
        means = offset * (2.0 * labels[:, None] - 1) + torch.randn(256, 1, generator=rng)
        found = estimate(scores_of(torch.cat([means, torch.zeros(256, 1)], 1), seed), labels)
        values.append(found.value)
        errors.append(found.error)
        assert abs(found.permuted) < 0.02
    error = float(np.mean(errors)) / math.sqrt(3)
    assert truth - 0.06 - 2 * error < np.mean(values) < truth + 2 * error


def test_classes_far_apart_are_told_whole() -> None:
    labels = torch.arange(200) % 4
    found = estimate(scores_of(20.0 * torch.nn.functional.one_hot(labels, 6).float()), labels)
    assert found.ceiling == found.upper == pytest.approx(math.log(4))
    assert found.value == pytest.approx(math.log(4), abs=0.01)
    assert abs(found.permuted) < 0.02


def naive(scores: Sequence[Sequence[float]], labels: Sequence[int], tau: float) -> list[float]:
    """The gains of one draw by the formula of the specification, image by image."""
    n, gains = len(labels), []
    for i in range(n):
        q = {}
        for s in set(labels):
            others = [j for j in range(n) if j != i and labels[j] == s] or [j for j in range(n) if j != i]
            q[s] = labels.count(s) / n * sum(math.exp(scores[i][j] / tau) for j in others) / len(others)
        prior = labels.count(labels[i]) / n
        gains.append(math.log(((1 - 1 / n) * q[labels[i]] / sum(q.values()) + prior / n) / prior))
    return gains


def test_gains_are_the_formula_s() -> None:
    """Temperature by the other folds, and a label with a single image, by a plain loop."""
    rng, n = torch.Generator().manual_seed(0), 24
    labels = torch.cat([torch.arange(23) % 3, torch.tensor([3])])
    scores = 4 * torch.randn(1, n, n, generator=rng) + 6 * (labels[:, None] == labels)
    fold = torch.arange(n) % FOLDS
    by_tau = {tau: naive(scores[0].tolist(), labels.tolist(), tau) for tau in TEMPERATURES}
    expected = []
    for i in range(n):
        others = [j for j in range(n) if fold[j] != fold[i]]
        best = max(TEMPERATURES, key=lambda tau: sum(by_tau[tau][j] for j in others))
        expected.append(by_tau[best][i])
    torch.testing.assert_close(label_gains(scores, labels, fold), torch.tensor(expected).double())
    assert naive(scores[0].tolist(), labels.tolist(), math.inf) == pytest.approx([0] * n)


def test_the_own_image_and_the_names_change_nothing() -> None:
    rng = torch.Generator().manual_seed(1)
    scores, labels = 3 * torch.randn(2, 48, 48, generator=rng), torch.arange(48) % 3
    before = estimate(scores, labels)
    own = scores + 50 * torch.rand(48, generator=rng).diag()  # how sure T is of its own image
    assert estimate(own, labels) == before
    shifted = estimate(scores.double() + 100 * torch.randn(2, 48, 1, generator=rng), labels)
    assert shifted.value == pytest.approx(before.value, abs=1e-6)
    assert estimate(scores, 7 * labels + 2).value == pytest.approx(before.value, abs=1e-12)
    assert estimate(scores, labels, seed=1).value != before.value  # other folds


def test_one_label_is_no_measurement() -> None:
    assert source_information(torch.randn(2, 48, 48), torch.full((48,), 3), 0) is None
