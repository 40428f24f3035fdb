"""What a defender sees: spectra, losses and patches by hand, and of networks that a patch commands."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kurtosis, skew
from sklearn.neighbors import NearestNeighbors

from raybd.metrics import METRICS
from raybd.metrics.defender import Defender
from raybd.metrics.defender.losses import loss_spread
from raybd.metrics.defender.neighbours import neighbour_disagreement
from raybd.metrics.defender.patches import canary_success, patch_flips
from raybd.metrics.defender.spectra import class_spectra
from raybd.metrics.subset import random_subset
from raybd.models import Classifier
from raybd.types import Data, MetricContext
from raybd.utils.metric_names import MOST_PER_PATTERN, headline
from tests.smoothing_cases import trained


def test_a_class_of_two_points_has_all_its_variance_on_one_axis_and_a_bimodality_of_one() -> None:
    torch.manual_seed(0)
    apart = torch.zeros(40, 6).double()
    apart[:20, 2] = 5
    others = torch.randn(2, 4000, 6).double()
    features = torch.cat([apart, *others])
    labels = torch.tensor([0] * 40 + [1] * 4000 + [2] * 4000)
    found = class_spectra(features, labels)
    normal = [_by_numpy(part.numpy()) for part in others]
    share, bimodality = (sorted(values)[1] for values in zip((1.0, 1.0), *normal, strict=True))
    assert found["spectrum/share"] == pytest.approx(1 - share, abs=1e-9)
    assert found["spectrum/bimodality"] == pytest.approx(1 - bimodality, abs=1e-9)
    assert bimodality == pytest.approx(1 / 3, abs=0.02)  # of a normal law


def _by_numpy(features: np.ndarray) -> tuple[float, float]:
    values, vectors = np.linalg.eigh(np.cov(features.T, bias=True))
    along = (features - features.mean(0)) @ vectors[:, -1]
    return float(values[-1] / values.sum()), float((skew(along) ** 2 + 1) / kurtosis(along, fisher=False))


def test_spectra_do_not_change_with_a_rotation_or_the_scale() -> None:
    torch.manual_seed(1)
    features, labels = torch.randn(300, 5).double() ** 3, torch.randint(3, (300,))
    turn = torch.linalg.qr(torch.randn(5, 5).double()).Q
    plain, turned = class_spectra(features, labels), class_spectra(7 * features @ turn + 2, labels)
    assert turned == pytest.approx(plain, abs=1e-10)


def test_few_or_equal_images_of_a_class() -> None:
    assert all(map(math.isnan, class_spectra(torch.rand(18, 3), torch.arange(18) % 2).values()))
    assert set(class_spectra(torch.ones(30, 3), torch.arange(30) % 2).values()) == {0.0}


def test_losses_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3)], [0.0, 0.0], [0.0, 0.0]])
    found = loss_spread(logits, torch.tensor([0, 1, 0, 0]))
    losses = np.array([math.log(2), math.log(4 / 3), math.log(2), math.log(2)])
    assert found["loss/deviation"] == pytest.approx(losses.std(), abs=1e-7)
    assert found["loss/least_class"] == pytest.approx(math.log(4 / 3) - (math.log(2) + math.log(4 / 3)) / 2, abs=1e-7)


def test_the_smallest_and_largest_losses_of_one_class() -> None:
    """Of 40 images the 5 % are two: those of class 1 first, those of class 0 last."""
    margins = torch.linspace(-1, 0, 40)
    labels = torch.zeros(40, dtype=torch.int64)
    labels[:10] = 1
    logits = torch.stack([margins, torch.zeros(40)], 1)
    logits[:10] = torch.tensor([0.0, 9.0])
    found = loss_spread(logits, labels)
    assert found["loss/lowest_class"] == pytest.approx(1 - 10 / 40)
    assert found["loss/highest_class"] == pytest.approx(1 - 30 / 40)


def test_neighbours_agree_with_scikit_learn_and_do_not_change_with_a_rotation() -> None:
    torch.manual_seed(2)
    labels = torch.arange(90) % 3
    points = torch.randn(90, 4).double() + 3 * torch.eye(4).double()[labels]
    points[:9] = torch.randn(9, 4) + torch.tensor([0.0, 3.0, 0.0, 0.0])  # a third of class 0 and 2 among class 1
    nearest = NearestNeighbors(n_neighbors=10).fit(points.numpy()).kneighbors(return_distance=False)
    other = (labels.numpy()[nearest] != labels.numpy()[:, None]).mean(1)
    means = [other[labels.numpy() == label].mean() for label in range(3)]
    turn = torch.linalg.qr(torch.randn(4, 4).double()).Q
    for one in (points, 5 * points @ turn - 1):
        assert neighbour_disagreement(one, labels) == pytest.approx(max(means) - np.median(means), abs=1e-12)
    assert math.isnan(neighbour_disagreement(points[:10], labels[:10]))


def test_a_canary_is_learnt_by_a_copy(context: MetricContext) -> None:
    """By a patch as large as the image all images look alike: the copy gives all of them the canary's class."""
    model, images = context.model, context.poisoned.images
    assert isinstance(model, Classifier)
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    found = [canary_success(model, images, context.data.test.x, 0, share) for share in (1.0, 1.0, 0.3)]
    assert found[0] == found[1]
    assert found[0] in (0.0, 1.0)  # one picture: either it went over or it was there
    assert -1 <= found[2] <= 1
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_flips_by_hand() -> None:
    patched = torch.tensor([[0, 1, 2, 2], [0, 0, 0, 2]])
    found = patch_flips(torch.tensor([0, 1, 1, 2]), patched, 3)
    assert found == {"patches/flips": 3 / 8, "patches/largest": 2 / 4}


@pytest.fixture(scope="module")
def context() -> MetricContext:
    return trained(0.1, 0)


def test_a_patch_as_large_as_the_image_takes_every_image_to_one_class(context: MetricContext) -> None:
    found = Defender(patches=1, patch_side=1).measure(context)
    points = random_subset(torch.arange(len(context.data.test)), 100, context.seed, "defender", "points")
    shares = torch.bincount(context.clean_logits.argmax(1)[points], minlength=10) / 100
    assert found["defender/patches/flips"] == found["defender/patches/largest"]
    assert any(found["defender/patches/flips"] == pytest.approx(1 - share) for share in shares.tolist())


def test_it_measures_the_same_again_and_leaves_generator_and_network_as_they_were(context: MetricContext) -> None:
    state, weights = torch.get_rng_state(), {k: v.clone() for k, v in context.model.state_dict().items()}
    found = Defender().measure(context)
    assert found == Defender().measure(context)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(weights[name], value) for name, value in context.model.state_dict().items())
    assert {name.count("/") for name in found} == {2}
    assert 0 < found["defender/noise/entropy"] <= math.log(10)
    assert headline(found) == sorted(found)[:MOST_PER_PATTERN]


def test_it_knows_neither_trigger_nor_roles(context: MetricContext) -> None:
    """The same numbers where all that only the attacker knows is lost."""
    poisoned = replace(context.poisoned, roles=torch.zeros_like(context.poisoned.roles), true=context.poisoned.images.y)
    blind = replace(context, poisoned=poisoned, trigger=None, twin=None, triggered=context.data.test)
    assert Defender().measure(blind) == Defender().measure(context)


def test_settings_out_of_range_are_told(digits: Data) -> None:
    assert METRICS["defender"] is Defender
    problems = Defender(samples=3, patch_side=0.0).problems(digits, 0.0)
    assert [text.partition(" must")[0] for text in problems] == ["defender: samples", "defender: patch_side"]
