"""The filters' arithmetic against NumPy, scikit-learn, SciPy and closed forms."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.cluster import KMeans
from sklearn.decomposition import FastICA
from sklearn.metrics import silhouette_score
from torch import Tensor

from raybd.defences import TrainingContext
from raybd.defences.activation_clustering import ActivationClustering, clustered, whitened
from raybd.defences.filtering import Filter, Subset, spare_classes, subset, two_means
from raybd.defences.scan import Scan, deviations, inverse_root, split, within
from raybd.defences.spectral import Spectral, highest, spectral_scores
from raybd.models import Classifier, build_model
from raybd.training import TrainConfig
from raybd.types import Data, Images
from tests.conftest import made_images

CLASSES = 4


def points(n: int = 200, d: int = 12, seed: int = 0, apart: float = 0.0, share: float = 0.2) -> Tensor:
    """(n, d) normal of unlike variances and correlated, the first `share` of them moved `apart`."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) @ rng.normal(size=(d, d))
    x[: round(share * n)] += apart * rng.normal(size=d)
    return torch.from_numpy(x)


def shuffled(n: int, seed: int = 3) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def test_spectral_scores_against_numpy() -> None:
    x, y = points().float().double(), torch.arange(200) % CLASSES
    scores = spectral_scores(x, y, CLASSES).numpy()
    for label in range(CLASSES):
        rows = x.numpy()[y.numpy() == label]
        rows = rows - rows.mean(0)
        # Another road to the same vector: the first eigenvector of the scatter.
        _, vectors = np.linalg.eigh(rows.T @ rows)
        assert np.allclose(scores[y.numpy() == label], (rows @ vectors[:, -1]) ** 2, rtol=1e-9, atol=1e-9)
        assert scores[y.numpy() == label].sum() == pytest.approx(np.linalg.svd(rows)[1][0] ** 2, rel=1e-12)


def test_spectral_scores_by_hand() -> None:
    x = torch.tensor([[0.0, 0], [0, 0], [0, 0], [4, 0], [7, 7]], dtype=torch.float64)
    scores = spectral_scores(x, torch.tensor([0, 0, 0, 0, 1]), 3)
    assert scores.tolist() == pytest.approx([1, 1, 1, 9, 0])  # about the mean 1; a lone image has 0
    assert highest(scores, torch.tensor([0, 0, 0, 0, 1]), 3, 0.25).tolist() == [False, False, False, True, False]


def test_the_highest_of_each_class_are_that_share() -> None:
    scores, y = torch.arange(100.0), torch.arange(100) % 3
    found = highest(scores, y, 3, 0.15)
    assert [int(found[y == label].sum()) for label in range(3)] == [5, 5, 5]
    assert sorted(found.nonzero()[:, 0].tolist()) == list(range(85, 100))


@pytest.mark.parametrize("apart", [0.0, 3.0, 10.0])
def test_two_means_against_scikit_learn(apart: float) -> None:
    z = whitened(points(apart=apart, seed=int(apart)), 10)
    small, inertia = two_means(z)
    best = KMeans(2, n_init=100, random_state=0).fit(z.numpy())
    assert inertia <= best.inertia_ * (1 + 1e-2)  # 20 starts against 100
    centres = torch.stack([z[small].mean(0), z[~small].mean(0)])
    assert inertia == pytest.approx(float((z[:, None] - centres).square().sum(2).amin(1).sum()), rel=1e-12)
    assert int(small.sum()) * 2 <= len(z)
    if apart == 10:
        assert inertia == pytest.approx(best.inertia_, rel=1e-12)
        assert small.tolist() == [place < 40 for place in range(200)]


def test_two_means_of_equal_points_finds_no_second_cluster() -> None:
    small, inertia = two_means(torch.ones(5, 3, dtype=torch.float64))
    assert not small.any()
    assert inertia == 0
    assert clustered(torch.ones(5, 3, dtype=torch.float64))[1] == -1


@pytest.mark.filterwarnings("ignore:FastICA did not converge")
def test_activation_clustering_against_scikit_learn() -> None:
    """On independent components, as the paper has it, the clusters and their silhouette are the same."""
    x = points(apart=10.0, seed=10)
    small, score = clustered(whitened(x, 10))
    ica = FastICA(10, whiten="unit-variance", random_state=0, tol=0.05).fit_transform(x.numpy())
    labels = KMeans(2, n_init=50, random_state=0).fit_predict(ica)
    fewer = labels == np.bincount(labels).argmin()
    assert (small.numpy() == fewer).all()
    assert score == pytest.approx(silhouette_score(ica, labels), abs=1e-6)


def test_whitened_components_have_unit_variance_and_drop_what_holds_nothing() -> None:
    x = torch.cat([points(d=5), torch.full((200, 3), 2.0, dtype=torch.float64)], 1)
    z = whitened(x, 10)
    assert z.shape == (200, 5)
    assert torch.allclose(z.T @ z / 200, torch.eye(5, dtype=torch.float64), atol=1e-10)


def test_the_gain_of_two_groups_is_twice_the_log_likelihood_ratio() -> None:
    r, clean = points(60, 3, apart=8.0), points(80, 3, seed=1)
    s = within(clean, torch.zeros(80, dtype=torch.int64), 1)
    root = inverse_root(s, 0.01)
    strange, gain = split(r @ root, clean.mean(0) @ root)
    shrunk = (s + 0.01 * s.trace() / 3 * torch.eye(3, dtype=torch.float64)).numpy()

    def log_likelihood(rows: Tensor) -> float:
        return float(multivariate_normal(rows.mean(0).numpy(), shrunk).logpdf(rows.numpy()).sum())

    ratio = 2 * (log_likelihood(r[strange]) + log_likelihood(r[~strange]) - log_likelihood(r))
    assert gain == pytest.approx(ratio, rel=1e-10)
    assert strange.tolist() == [place < 12 for place in range(60)]


def test_the_strange_group_is_the_one_that_clean_images_do_not_know_however_large() -> None:
    r = torch.cat([torch.randn(70, 2, generator=torch.Generator().manual_seed(0)) + 9, torch.randn(30, 2)]).double()
    strange, _ = split(r, torch.zeros(2, dtype=torch.float64))
    assert int(strange[:70].sum()) == 70
    assert not strange[70:].any()


def test_the_scatter_within_classes_is_the_maximum_likelihood_of_a_random_effects_model() -> None:
    """What the paper's EM climbs to, for classes of equal size: one dimension, maximised numerically."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 3, 6)[:, None] + rng.normal(0, 1.3, (6, 15))

    def loss(logs: np.ndarray) -> float:
        between, inside = np.exp(logs)
        covariance = between * np.ones((15, 15)) + inside * np.eye(15)
        centred = x - x.mean()  # the mean's own maximum, where classes are of one size
        return -float(multivariate_normal(np.zeros(15), covariance).logpdf(centred).sum())

    found = minimize(loss, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-11, "maxiter": 2000})
    y = torch.arange(6).repeat_interleave(15)
    ours = within(torch.from_numpy(x).reshape(-1, 1), y, 6)
    assert float(ours) == pytest.approx(math.exp(found.x[1]), rel=1e-6)


def test_deviations_against_numpy() -> None:
    gains = torch.tensor([3.0, 5, 4, 90, 6, 2], dtype=torch.float64)
    median = np.median(gains)
    mad = np.median(np.abs(gains.numpy() - median))
    assert np.allclose(deviations(gains).numpy(), (gains.numpy() - median) / (1.4826 * mad), rtol=1e-12)
    assert not deviations(torch.ones(5, dtype=torch.float64)).any()
    k = 78  # the paper's shift and scale change nothing
    assert torch.allclose(deviations((gains - k) / math.sqrt(2 * k)), deviations(gains), rtol=1e-12)


def _spectral(x: Tensor, y: Tensor) -> Tensor:
    return spectral_scores(x, y, CLASSES)


def _activation(x: Tensor, y: Tensor) -> Tensor:
    found = torch.zeros(len(y), dtype=torch.bool)
    for label in range(CLASSES):
        found[y == label] = clustered(whitened(x[y == label], 10))[0]
    return found.double()


def _scan(x: Tensor, y: Tensor) -> Tensor:
    root = inverse_root(within(x, y, CLASSES), 0.01)
    found = torch.zeros(len(y), dtype=torch.float64)
    for label in range(CLASSES):
        strange, gain = split(x[y == label] @ root, x.mean(0) @ root)
        found[y == label] = strange.double() + gain
    return found


@pytest.mark.parametrize("score", [_spectral, _activation, _scan])
def test_what_is_said_of_an_image_goes_with_it_where_the_images_are_shuffled(
    score: Callable[[Tensor, Tensor], Tensor],
) -> None:
    x, y = points(apart=6.0), torch.arange(200) % CLASSES
    order = shuffled(200)
    assert torch.allclose(score(x[order], y[order]), score(x, y)[order], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("defence", [Spectral(), ActivationClustering(), Scan()])
def test_a_filter_says_the_same_of_the_same_images_in_another_order(digits: Data, defence: Filter) -> None:
    torch.manual_seed(0)
    network = build_model("small_cnn", digits.train.shape, 10, digits.mean, digits.std, width=0.5)
    assert isinstance(network, Classifier)
    order = shuffled(600)
    images, trusted = digits.train.take(torch.arange(600)), digits.test
    at = TrainingContext(model=network, images=images, classes=10, train_config=TrainConfig(), seed=0, trusted=trusted)
    whole, again = (defence.detect(one, network) for one in (at, replace(at, images=images.take(order))))
    assert torch.allclose(again.suspicion, whole.suspicion[order], rtol=1e-3, atol=1e-4)
    assert (again.flagged == whole.flagged[order]).float().mean() > 0.99


def test_a_class_is_never_removed_whole(caplog: pytest.LogCaptureFixture) -> None:
    y = torch.tensor([0, 0, 1, 1, 3])
    flagged, spared = spare_classes(torch.tensor([True, True, True, False, False]), y, 4)
    assert flagged.tolist() == [False, False, True, False, False]
    assert spared == 1
    assert "[0]" in caplog.text


def test_a_subset_of_repoisoned_images_is_repoisoned() -> None:
    class RepoisonedImages(Images):
        def at(self, epoch: int) -> Images:
            return Images(self.x + epoch, self.y)

    whole = made_images(10)
    repoisoned = subset(RepoisonedImages(whole.x, whole.y), torch.tensor([2, 5]))
    assert torch.equal(repoisoned.at(3).x, whole.x[[2, 5]] + 3)
    still = subset(whole, torch.tensor([2, 5]))
    assert isinstance(still, Subset)
    assert still.at(3) is still
