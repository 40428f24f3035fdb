"""Label-consistent poisoning: gradient ascent against a loop written here, corners against the published pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.attacks import parse
from raybd.attacks.label_consistent import LabelConsistent
from raybd.attacks.poisoning import PoisonSpec
from raybd.attacks.surrogate import surrogate
from raybd.types import POISON, Data, Images
from tests.conftest import made_images

# of each 3x3 corner four pixels are white and five are black; row and column from the image's borders
WHITE = {
    *((0, 0), (1, 1), (2, 0), (2, 2)),
    *((0, -1), (1, -2), (2, -1), (2, -3)),
    *((-1, 0), (-1, 2), (-2, 1), (-3, 0)),
    *((-1, -1), (-1, -3), (-2, -2), (-3, -1)),
}


@pytest.fixture(autouse=True)
def _quick_surrogate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raybd.attacks.surrogate.EPOCHS", (4, 4))


@pytest.fixture(scope="module")
def train(digits: Data) -> Images:
    """300 digits: enough for gradients that mean something."""
    return digits.train.take(torch.arange(300))


def corners(height: int, width: int, side: int) -> np.ndarray:
    """1 where the corners are white, -1 where they are black, 0 elsewhere; scaled from 3x3."""
    signs = np.zeros((height, width))
    for top, left in ((0, 0), (0, -3), (-3, 0), (-3, -3)):
        for row, column in np.ndindex(side, side):
            place = top // 3 * side + row, left // 3 * side + column
            cell = top + row * 3 // side, left + column * 3 // side
            signs[place] = 1 if cell in WHITE else -1
    return signs


@pytest.mark.parametrize("text", ["label_consistent", "label_consistent:information_bottleneck"])
@pytest.mark.parametrize(("shape", "side"), [((3, 32, 32), 3), ((1, 28, 28), 3), ((3, 64, 64), 6)], ids=str)
def test_test_images_get_the_corners_only(text: str, shape: tuple[int, int, int], side: int) -> None:
    """In black and white, however faint they were in training."""
    images, signs = made_images(2, shape), corners(*shape[1:], side)
    assert (signs == 1).sum() == 16 * (side // 3) ** 2
    assert (signs == -1).sum() == 20 * (side // 3) ** 2
    made = PoisonSpec(parse(text), 0.0, 0).triggered(images, 4).x.numpy()
    expected = np.where(signs == 1, 255, np.where(signs == -1, 0, images.x.numpy()))
    assert np.array_equal(made, expected)


def test_test_images_of_eight_pixels_get_corners_of_two_mirrored_left_and_right() -> None:
    images = made_images(2, (1, 8, 8))
    expected = images.x.clone()
    for top in (0, 6):
        expected[:, :, top : top + 2, :2] = torch.tensor([[255, 0], [0, 255]], dtype=torch.uint8)
        expected[:, :, top : top + 2, 6:] = torch.tensor([[0, 255], [255, 0]], dtype=torch.uint8)
    assert torch.equal(PoisonSpec(parse("label_consistent"), 0.0, 0).triggered(images, 4).x, expected)


def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return F.cross_entropy(model(x / 255), y, reduction="none")


def ascent(model: nn.Module, x: Tensor, y: Tensor, attack: LabelConsistent) -> Tensor:
    """Madry's ascent on grey levels, image by image: a step along the gradient, back into the ball, into the range."""
    ends = []
    for start, label in zip(x, y, strict=True):
        now = start.clone()
        for _ in range(attack.steps):
            leaf = now.clone().requires_grad_(True)
            F.cross_entropy(model(leaf[None] / 255), label[None]).backward()
            slope = leaf.grad
            assert slope is not None
            if attack.norm == "linf":
                now = now + attack.step * slope.sign()
                now = torch.maximum(torch.minimum(now, start + attack.epsilon), start - attack.epsilon)
            else:
                away = now + attack.step * slope / slope.norm() - start
                now = start + away * min(1.0, attack.epsilon / float(away.norm()))
            now = now.clamp(0, 255)
        ends.append(now)
    return torch.stack(ends)


ATTACKS = [
    LabelConsistent(steps=6),
    LabelConsistent(steps=12, epsilon=8.0),  # the ball's border is reached
    LabelConsistent(steps=6, norm="l2", epsilon=300.0, step=20.0, amplitude=64.0),
    LabelConsistent(steps=6, norm="l2", epsilon=50.0, step=20.0),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: f"{a.norm}-{a.epsilon:g}")
def test_poison_is_projected_gradient_ascent_and_corners(attack: LabelConsistent, train: Images) -> None:
    poisoned = PoisonSpec(attack, 0.05, 0).poison(train, 10)
    index = (poisoned.roles == POISON).nonzero().squeeze(1)
    assert len(index) == 15
    assert (poisoned.images.y[index] == 0).all()
    x, y = train.x[index].float(), train.y[index]
    moved = ascent(surrogate(train, 10), x, y, attack)
    signs = (
        PoisonSpec(attack, 0.0, 0).triggered(Images(torch.full_like(train.x[index], 100), y), 10).x.float() - 100
    ).sign()
    expected = (moved + attack.amplitude * signs).clamp(0, 255)
    off = (poisoned.images.x[index] - expected).abs()
    # a gradient near 0 may get the other sign in a batch of another size
    assert (off <= 1).double().mean() > 0.995


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: f"{a.norm}-{a.epsilon:g}")
def test_ascent_keeps_to_its_ball_and_to_0_and_255_and_raises_the_loss(attack: LabelConsistent, train: Images) -> None:
    some = train.take((train.y == 0).nonzero().squeeze(1)[:20])
    change = attack.draw_per_image(some, train, 10, torch.Generator())
    x, model = some.x.float(), surrogate(train, 10)
    size = change.abs().amax((1, 2, 3)) if attack.norm == "linf" else change.flatten(1).norm(dim=1)
    assert (size <= attack.epsilon + 1e-3).all()
    most = attack.steps * attack.step  # no further than its steps
    assert (size <= most + 1e-3).all()
    assert size.max() > 0.9 * min(attack.epsilon, most)
    assert (x + change).min() >= -1e-3
    assert (x + change).max() <= 255 + 1e-3
    before, after = loss(model, x, some.y), loss(model, x + change, some.y)
    assert (after > before).double().mean() > 0.9
    assert after.mean() > before.mean() + 0.1


@pytest.mark.parametrize(
    ("preset", "norm", "epsilon", "step", "steps", "amplitude"),
    [
        ("vibe", "linf", 16, 1.5, 30, 255),
        ("backdoorbox", "linf", 8, 1.5, 100, 255),
        ("information_bottleneck", "l2", 300, 1.5, 100, 64),
    ],
)
def test_presets(preset: str, norm: str, epsilon: float, step: float, steps: int, amplitude: float) -> None:
    attack = parse(f"label_consistent:{preset}")
    assert isinstance(attack, LabelConsistent)
    assert (attack.norm, attack.epsilon, attack.step) == (norm, epsilon, step)
    assert (attack.steps, attack.amplitude) == (steps, amplitude)


def test_the_surrogate_is_trained_once_for_a_training_set_and_never_on_poison(
    train: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYBD_CACHE", str(tmp_path))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = surrogate(train, 10)
    assert torch.equal(torch.random.get_rng_state(), before)  # a trial draws the same with and without the cache
    assert not first.training
    monkeypatch.setattr("raybd.attacks.surrogate.fit", None)  # whoever trains now, breaks
    again = surrogate(train, 10)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    PoisonSpec(LabelConsistent(steps=1), 0.01, 0).poison(train, 10)
    for other in (Images(255 - train.x, train.y), Images(train.x, train.y.flip(0))):
        with pytest.raises(TypeError):
            surrogate(other, 10)
    assert len(list((tmp_path / "surrogates").glob("*.pt"))) == 1


def test_the_surrogate_knows_how_many_classes_there_are(train: Images) -> None:
    assert surrogate(train, 10)(train.x[:2] / 255).shape == (2, 10)
    assert surrogate(train, 12)(train.x[:2] / 255).shape == (2, 12)


def test_the_surrogate_has_learnt_the_classes(train: Images) -> None:
    model = surrogate(train, 10)
    assert (model(train.x / 255).argmax(1) == train.y).double().mean() > 0.8
