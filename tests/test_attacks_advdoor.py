"""AdvDoor: its paths and its search against a loop written here for a linear surrogate, its pixels, its cache."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raybd.attacks import parse
from raybd.attacks.advdoor import AdvDoor, called, deepfool
from raybd.attacks.poisoning import PoisonSpec
from raybd.seeds import stream
from raybd.types import POISON, Data, Images
from tests.conftest import Surrogates, surrogates_of

SHAPE = (1, 4, 4)
surrogates = surrogates_of("raybd.attacks.advdoor")


def made(low: int = 0, high: int = 256, n: int = 40) -> Images:
    x = torch.randint(low, high, (n, *SHAPE), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return Images(x, torch.arange(n) % 3)


def linear() -> tuple[nn.Sequential, np.ndarray, np.ndarray]:
    """A linear surrogate of three classes, steep enough for most paths to end; its weights (3, 16) and bias (3,)."""
    layer = nn.Linear(16, 3)
    layer.weight.data = 3 * torch.randn(3, 16, generator=torch.Generator().manual_seed(2))
    layer.bias.data = torch.tensor([-3.0, 0.0, 0.0]) - layer.weight.data.sum(1) / 2
    weight, bias = (part.detach().double().numpy() for part in (layer.weight, layer.bias))
    return nn.Sequential(nn.Flatten(), layer), weight, bias


def pattern(attack: AdvDoor, images: Images, classes: int = 3) -> Tensor:
    return PoisonSpec(attack, 0.0, 0).on(images, classes).trigger(images.shape, classes)


def path_of(weight: np.ndarray, bias: np.ndarray, x: np.ndarray, source: int, target: int) -> np.ndarray | None:
    """The authors' `deepfool`, for logits W x + b in float64; None where its caller does not use what it returns."""
    logits = weight @ x + bias
    total, at, count = np.zeros_like(x), x, 0
    while (logits.argmax() != target or np.exp(logits[target]) / np.exp(logits).sum() < 0.8) and count < 20:
        w = weight[target] - weight[source]
        length = abs(2 * (logits[target] - logits[source])) / np.linalg.norm(w)
        total = total + length * w / np.linalg.norm(w)
        at = np.clip(x + 1.02 * total, 0, 1)
        total = (at - x) / 1.02
        count, logits = count + 1, weight @ at + bias
    return 1.02 * total if count < 19 else None


def test_without_clipping_a_step_reflects_the_gap_of_a_linear_network() -> None:
    """A step of 2 |g| w / |w|^2, 2 % too long: the gap g < 0 of two classes becomes g + 2.04 |g| = 1.04 |g|."""
    layer = nn.Linear(16, 2)
    layer.weight.data = torch.randn(2, 16, generator=torch.Generator().manual_seed(4)) * 2
    layer.bias.data = torch.tensor([-2.0, 0.0]) - layer.weight.data.sum(1) / 2
    model, x = nn.Sequential(nn.Flatten(), layer).double(), torch.full((1, *SHAPE), 0.5, dtype=torch.float64)
    found = deepfool(model, x, 1, 0)
    assert found is not None
    gap = layer.weight[0] - layer.weight[1]
    assert torch.allclose(found.flatten(), 1.02 * 2 * 2 * gap / gap.square().sum(), atol=1e-12)
    after = model(x + found)[0].tolist()
    assert after[0] - after[1] == pytest.approx(1.04 * 2)


def test_paths_are_the_authors_on_a_linear_network_clipped_pixels_too() -> None:
    (model, w, b), ends = linear(), list[bool]()
    for x, y in zip(made().x.double() / 255 * 1.4 - 0.2, made().y.tolist(), strict=True):  # as x + v may be
        if (w @ x.flatten().numpy() + b).argmax() != 0 and y != 0:
            wanted = path_of(w, b, x.flatten().numpy(), y, 0)
            found = deepfool(model.double(), x[None], y, 0)
            assert (found is None) == (wanted is None)
            ends.append(found is None)
            if found is not None and wanted is not None:
                assert np.allclose(found.flatten().numpy(), wanted, atol=1e-10)
    assert set(ends) == {True, False}  # of both kinds there are some


def test_no_path_from_the_target_nor_where_nothing_slopes() -> None:
    model, flat = linear()[0], nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    flat[1].weight.data.zero_()
    flat[1].bias.data = torch.tensor([0.0, 1.0, 0.0])
    own = next(x for x in made().x.float() / 255 if int(model(x[None]).argmax()) == 1)[None]
    assert deepfool(model, own, 2, 1) is None
    assert deepfool(flat, own, 1, 0) is None


@pytest.mark.parametrize(("epsilon", "passes"), [(12.0, 1), (30.0, 2), (90.0, 5)])
def test_the_search_is_the_authors_on_a_linear_network(surrogates: Surrogates, epsilon: float, passes: int) -> None:
    """Against a loop over the same images in the same order, in float64; other images than the target's alone."""
    model, w, b = linear()
    surrogates(model)
    images = made()
    others = (images.y != 0).nonzero()[:, 0]
    some = images.take(others[torch.randperm(len(others), generator=stream(0, "advdoor"))[:20]])
    x, change, radius = some.x.flatten(1).double().numpy() / 255, np.zeros(16), epsilon / 255
    for number in range(passes):
        for k in torch.randperm(20, generator=stream(0, "advdoor", number)).tolist():
            if (w @ (x[k] + change) + b).argmax() != 0:
                path = path_of(w, b, x[k] + change, int(some.y[k]), 0)
                change = change if path is None else np.clip(change + path, -radius, radius)
        if np.mean((np.clip(x + change, 0, 1) @ w.T + b).argmax(1) == 0) >= 0.8:
            break
    found = pattern(AdvDoor(epsilon=epsilon, passes=passes, images=20), images)
    assert 0.5 < found.abs().max() <= epsilon * (1 + 1e-6)
    assert np.allclose(found.flatten().numpy(), 255 * change, atol=0.05)


def test_the_search_ends_where_enough_images_are_called_the_target(surrogates: Surrogates) -> None:
    model = linear()[0]
    surrogates(model)
    images, counted = made(), list[float]()
    others = images.take((images.y != 0).nonzero()[:, 0])
    for success in (0.3, 1.0):
        found = pattern(AdvDoor(epsilon=120.0, success=success, passes=8), images)
        counted.append(called(model, others.x, found[None] / 255, 0))
    assert called(model, others.x, torch.zeros(1, *SHAPE), 0) < 0.3 <= counted[0]
    assert counted[1] > 0.9
    signs = torch.randn(20, *SHAPE, generator=torch.Generator().manual_seed(0)).sign()
    others_of_its_size = [called(model, others.x, found.abs() * sign / 255, 0) for sign in signs]
    assert sum(others_of_its_size) / 20 < 0.5


def test_pixels_in_training_and_at_test(surrogates: Surrogates) -> None:
    surrogates(linear()[0])
    images, attack = made(), AdvDoor(epsilon=20.0, images=20)
    spec = PoisonSpec(attack, 0.1, 0).on(images, 3)
    poisoned, change = spec.poison(images, 3), pattern(attack, images)
    index = (poisoned.roles == POISON).nonzero()[:, 0]
    assert len(index) == 4
    assert (images.y[index] != 0).all()
    assert (poisoned.images.y[index] == 0).all()
    expected = (images.x.float() + change).clamp(0, 255).round()
    assert torch.equal(poisoned.images.x[index].float(), expected[index])
    assert torch.equal(spec.triggered(images, 3).x.float(), expected)


def test_the_picture_is_made_once_for_a_training_set_and_by_no_trial_s_seed(
    digits: Data, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAYBD_CACHE", str(tmp_path))
    monkeypatch.setattr("raybd.attacks.surrogate.EPOCHS", (1, 1))
    train, attack = digits.train.take(torch.arange(200)), AdvDoor(images=10, passes=1)
    before = torch.random.get_rng_state()
    first = pattern(attack, train, 10)
    assert torch.equal(torch.random.get_rng_state(), before)
    monkeypatch.setattr("raybd.attacks.advdoor.surrogate", None)  # whoever searches now, breaks
    again = PoisonSpec(attack, 0.1, 7).on(train, 10).trigger(train.shape, 10)
    assert torch.equal(first, again)
    for other in (replace(attack, images=11), replace(attack, epsilon=8.0), replace(attack, target=1)):
        with pytest.raises(TypeError):
            pattern(other, train, 10)


def test_presets() -> None:
    assert parse("advdoor:authors") == AdvDoor(epsilon=30.0, success=0.8, passes=5, images=5000)
