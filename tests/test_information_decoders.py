"""Information between T and labels: discrete truths, planted and absent flags."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score, silhouette_samples
from torch import Tensor

from raybd.metrics.information.bounds import MIEstimate
from raybd.metrics.information.decoders import decoded_information
from raybd.metrics.information.silhouette import silhouettes

DECODERS = ("logistic", "regularised_logistic", "neighbours")


def entropy(*shares: float) -> float:
    return -sum(p * math.log(p) for p in shares)


def flags(rate: float, n: int, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Poison flag and label of an all-to-one attack on class 0 that takes an equal share of every class."""
    true = np.arange(n) % classes
    flag = (np.arange(n) // classes) % round(1 / rate) == 0
    return flag.astype(int), np.where(flag, 0, true)


@pytest.mark.parametrize(("rate", "expected"), [(0.1, 0.19364), (0.05, 0.10511)])
def test_discrete_truths(rate: float, expected: float) -> None:
    classes = 10
    q0 = rate + (1 - rate) / classes
    formula = rate * math.log(1 / q0) + (1 - rate) / classes * math.log(1 / (classes * q0))
    formula += (classes - 1) / classes * (1 - rate) * math.log(1 / (1 - rate))
    assert formula == pytest.approx(expected, abs=1e-5)
    flag, label = flags(rate, 10_000)
    assert mutual_info_score(flag, label) == pytest.approx(formula, abs=1e-9)
    one_hot = torch.eye(classes)[label[:2000]] * 50
    found = decoded(one_hot, torch.tensor(flag[:2000]), 0)
    assert found.lower == pytest.approx(expected, abs=0.005)
    assert found.lower <= found.ceiling == pytest.approx(entropy(rate, 1 - rate), abs=1e-6)


def test_entropies_of_the_specification() -> None:
    flag, label = flags(0.1, 10_000)
    counts = np.bincount(label) / len(label)
    assert entropy(*counts) == pytest.approx(2.26597, abs=5e-6)
    assert entropy(0.1, 0.9) == pytest.approx(0.32508, abs=5e-6)
    share = flag[label == 0].mean()
    assert entropy(share, 1 - share) == pytest.approx(0.69176, abs=2e-5)


def decoded(t: Tensor, labels: Tensor, seed: int, permutations: int = 0) -> MIEstimate:
    found = decoded_information(t, labels, DECODERS, seed, permutations)
    assert found is not None
    return found


def target_class(seed: int, n: int = 950, d: int = 32) -> tuple[Tensor, Tensor]:
    """T of a target class and flags with the proportions 5000 / 9500."""
    rng = torch.Generator().manual_seed(seed)
    flag = (torch.randperm(n, generator=rng) < round(n * 5000 / 9500)).long()
    return torch.randn(n, d, generator=rng), flag


def test_a_random_flag_is_not_decodable() -> None:
    for seed in range(3):
        found = decoded(*target_class(seed), seed)
        assert 0 <= found.lower <= max(2 * found.error, 0.01)


def test_a_planted_offset_raises_it_to_the_entropy() -> None:
    t, flag = target_class(0)
    values = []
    for offset in (0.0, 0.5, 1.0, 8.0):
        found = decoded(t + offset * flag[:, None] * (torch.arange(32) < 4), flag, 0)
        assert found.ceiling == pytest.approx(0.6918, abs=2e-4)
        assert found.lower <= found.ceiling
        values.append(found.lower)
    assert values == sorted(values)
    assert values[-1] == pytest.approx(0.6918, abs=0.01)


def test_a_gaussian_offset_against_its_integral() -> None:
    """One coordinate, +-a with noise 1: I = ln 2 - E ln(1 + exp(-2 a (a + e)))."""
    rng, a = torch.Generator().manual_seed(0), 1.0
    flag = torch.arange(2000) % 2
    t = a * (2.0 * flag[:, None] - 1) + torch.randn(2000, 1, generator=rng)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    truth = math.log(2) - weights @ np.log1p(np.exp(-2 * a * (a + nodes))) / math.sqrt(2 * math.pi)
    found = decoded_information(t, flag, ("logistic",), 0)
    assert found is not None
    assert found.lower == pytest.approx(truth, abs=2 * found.error)


def test_scaling_coordinates_and_naming_labels_change_nothing() -> None:
    t, flag = target_class(1)
    t[:, 0] += 2 * flag
    before = decoded(t, flag, 0)
    after = decoded(t * torch.logspace(-2, 2, 32) + 5, 7 * flag + 3, 0)
    assert after.lower == pytest.approx(before.lower, abs=1e-3)


def test_rare_labels_are_left_out() -> None:
    t, _ = target_class(0, n=120)
    labels = torch.arange(120) % 2
    labels[:9] = 5
    assert decoded(t, labels, 0).samples == 111


@pytest.mark.parametrize("images", [(120,), (9,) * 13, (40, 9, 9, 9)])
def test_too_few_labels_with_enough_images_are_no_measurement(images: tuple[int, ...]) -> None:
    """One label, none with ten images, one with ten: nothing is said. A 0 would enter means."""
    labels = torch.arange(len(images)).repeat_interleave(torch.tensor(images))
    assert decoded_information(torch.randn(len(labels), 8), labels, DECODERS, 0) is None


def test_permuted_labels_are_a_null() -> None:
    """A flag that is told whole, and the same in random order: nothing."""
    t, flag = target_class(0, n=240)
    found = decoded(t + 3.0 * flag[:, None], flag, 0, 10)
    assert found.value > 0.6
    assert 0 <= found.permuted < 0.01
    assert math.isnan(decoded(t, flag, 0).permuted)


def test_silhouettes_by_scikit_learn_and_by_construction() -> None:
    rng = torch.Generator().manual_seed(0)
    labels, flag = torch.arange(150) % 3, torch.arange(150) % 6 == 0  # half of class 0 is poisoned
    centres = 10.0 * torch.eye(4)[torch.where(flag, 3, labels)]
    draws = centres[:, None] + torch.randn(150, 64, 4, generator=rng)
    draws = draws + 6 * torch.randn(150, 1, 4, generator=rng) * flag[:, None, None]  # the backdoor is spread out
    found = silhouettes(draws, labels, flag)
    split = torch.where(flag, 3, labels)
    apart, whole = (silhouette_samples(draws[:, 0].numpy(), y.numpy()) for y in (split, labels))
    masks = {"apart": flag, "target": (labels == 0) & ~flag, "clean": labels > 0}
    expected = {name: apart[mask.numpy()].mean() for name, mask in masks.items()}
    assert found == pytest.approx(expected | {"within": whole[flag.numpy()].mean()}, abs=0.02)  # the noise is near 1
    stretched = silhouettes(draws * torch.tensor([1.0, 10, 100, 0.1]), labels, flag)
    assert stretched == pytest.approx(found, abs=1e-4)
    assert silhouettes(draws, labels, torch.zeros(150, dtype=torch.bool)) == {}


def test_an_image_alone_in_its_class_has_no_silhouette() -> None:
    """scikit-learn calls it 0, which is no measurement: the mean of the others is theirs."""
    rng = torch.Generator().manual_seed(0)
    labels, flag = torch.cat([torch.arange(60) % 2, torch.tensor([5])]), torch.arange(61) < 20
    draws = 10.0 * torch.eye(6)[labels][:, None] + torch.randn(61, 8, 6, generator=rng)
    alone, without = silhouettes(draws, labels, flag), silhouettes(draws[:60], labels[:60], flag[:60])
    assert without["clean"] == pytest.approx(alone["clean"], abs=0.03)
    assert "clean" not in silhouettes(draws[labels != 1], labels[labels != 1], flag[labels != 1])
