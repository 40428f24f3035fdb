"""Narcissus: its picture against the closed form of a linear surrogate, its pixels in training and at test."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.attacks import Multi, parse
from raybd.attacks.narcissus import Narcissus
from raybd.attacks.poisoning import PoisonSpec
from raybd.attacks.surrogate import surrogate
from raybd.trials.base import poisoned_sets
from raybd.trials.config import TrialConfig
from raybd.types import POISON, Data, Images
from tests.conftest import Surrogates, surrogates_of

SHAPE = (1, 4, 4)
surrogates = surrogates_of("raybd.attacks.narcissus")


def greys(n: int = 40) -> Images:
    """Images between 90 and 160: no change of up to 40 grey levels is clipped."""
    rng = torch.Generator().manual_seed(1)
    x = torch.randint(90, 161, (n, *SHAPE), generator=rng, dtype=torch.uint8)
    return Images(x, torch.arange(n) % 3)


def linear() -> tuple[nn.Module, Tensor]:
    """A linear surrogate of three classes of which 1 and 2 are one, and the slope of class 0 against both (C, H, W)."""
    layer = nn.Linear(16, 3)
    weight = torch.randn(16, generator=torch.Generator().manual_seed(2))
    layer.weight.data = torch.stack([weight, -weight, -weight])
    layer.bias.data.zero_()
    return nn.Sequential(nn.Flatten(), layer), weight.view(SHAPE)


def pattern(attack: Narcissus, images: Images, classes: int = 3) -> Tensor:
    return PoisonSpec(attack, 0.0, 0).on(images, classes).trigger(images.shape, classes)


@pytest.mark.parametrize("epsilon", [4.0, 16.0])
@pytest.mark.parametrize("target", [0, 1])
def test_of_a_linear_surrogate_the_picture_is_the_corner_of_the_ball(
    surrogates: Surrogates, epsilon: float, target: int
) -> None:
    """The loss falls along one direction for all images: its least over the ball is at epsilon times that sign."""
    model, slope = linear()
    surrogates(model)
    found = pattern(Narcissus(epsilon=epsilon, target=target, step=4.0, steps=400), greys())
    wanted = slope.sign() * epsilon * (1 if target == 0 else -1)
    assert torch.equal(found, wanted)


def test_the_steps_are_radam_s_on_the_mean_loss_of_the_target_s_images(surrogates: Surrogates) -> None:
    """Against PyTorch's RAdam on a loss written here, in float64: one batch, as few images are of the target."""
    model, _ = linear()
    surrogates(model)
    images, attack = greys(), Narcissus(epsilon=2.0, steps=20, step=0.5)
    x = images.x[images.y == 0].double()
    weight, change = model[1].weight.detach().double(), torch.zeros(SHAPE, dtype=torch.float64, requires_grad=True)  # type: ignore[index,union-attr]
    optimizer = torch.optim.RAdam([change], lr=0.5)
    for _ in range(20):
        optimizer.zero_grad()
        moved = (x + torch.minimum(torch.maximum(change, torch.tensor(-2.0)), torch.tensor(2.0))) / 255
        (-F.log_softmax(moved.flatten(1) @ weight.T, 1)[:, 0].mean()).backward()
        optimizer.step()
    end = change.detach().clamp(-2, 2)
    assert 0.1 < end.abs().max() <= 2
    assert torch.allclose(pattern(attack, images).double(), end, atol=1e-4)


def test_pixels_in_training_and_at_test(surrogates: Surrogates) -> None:
    model, slope = linear()
    surrogates(model)
    images, attack = greys(), Narcissus(epsilon=6.0, steps=400, step=4.0)
    spec = PoisonSpec(attack, 0.1, 0).on(images, 3)
    change = 6 * slope.sign()
    poisoned = spec.poison(images, 3)
    index = (poisoned.roles == POISON).nonzero()[:, 0]
    assert len(index) == 4
    assert (images.y[index] == 0).all()
    assert torch.equal(poisoned.images.y, images.y)  # clean labels
    assert torch.equal(poisoned.images.x[index].float(), images.x[index].float() + change)
    assert torch.equal(spec.triggered(images, 3).x.float(), images.x.float() + 3 * change)
    weaker = PoisonSpec(replace(attack, magnify=1.0), 0.1, 0).on(images, 3)
    assert torch.equal(weaker.triggered(images, 3).x.float(), images.x.float() + change)


def test_the_gradient_is_that_of_what_is_clipped() -> None:
    """Against central differences in float64, of images and changes that both cuts reach."""
    model, attack, rng = linear()[0].double(), Narcissus(epsilon=6.0), torch.Generator().manual_seed(3)
    x = torch.randint(0, 256, (20, *SHAPE), generator=rng).double()
    x[:, 0, 0, :2] = torch.tensor([1.0, 254.0])  # all of them dark or bright
    change = torch.linspace(-9, 9, 16, dtype=torch.float64)[torch.randperm(16, generator=rng)].view(SHAPE)
    change[0, 0, :2] = torch.tensor([-5.0, 5.0])

    def loss(d: Tensor) -> Tensor:
        moved = (x + d.clamp(-6, 6)).clamp(0, 255) / 255
        return F.cross_entropy(model(moved), torch.zeros(20, dtype=torch.int64))

    steps = 1e-3 * torch.eye(16, dtype=torch.float64).view(16, *SHAPE)
    slopes = torch.stack([loss(change + step) - loss(change - step) for step in steps]).view(SHAPE) / 2e-3
    found = attack._gradient(model, x, change)
    assert (found == 0).sum() >= 2 + int((change.abs() > 6).sum())
    assert torch.allclose(found, slopes, atol=1e-7)


def test_what_is_clipped_is_clipped_in_the_search_too(surrogates: Surrogates) -> None:
    """Where all images are black, a darker pixel changes nothing: there the picture stays as it began, at 0."""
    model, slope = linear()
    surrogates(model)
    black = Images(torch.zeros(12, *SHAPE, dtype=torch.uint8), torch.arange(12) % 3)
    found = pattern(Narcissus(epsilon=6.0, steps=400, step=4.0), black)
    assert torch.equal(found[slope > 0], torch.full_like(found[slope > 0], 6.0))
    assert (found[slope < 0] <= 0).all()


def test_on_digits_the_surrogate_s_loss_falls_and_the_ball_holds(digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raybd.attacks.surrogate.EPOCHS", (4, 4))
    train = digits.train.take(torch.arange(300))
    attack = Narcissus(target=3, epsilon=32.0, steps=100, step=10.0)
    found, model = pattern(attack, train, 10), surrogate(train, 10)
    assert 16 < found.abs().max() <= 32
    own = train.take((train.y == 3).nonzero()[:, 0])
    with torch.no_grad():
        signs = found.abs() * torch.randn(found.shape, generator=torch.Generator().manual_seed(0)).sign()
        changes = (torch.zeros(()), found, signs)
        before, after, at_random = (F.cross_entropy(model((own.x + d).clamp(0, 255) / 255), own.y) for d in changes)
    assert after < min(before, at_random) - 0.2


def test_the_picture_is_made_once_for_a_training_set_and_by_no_trial_s_seed(
    digits: Data, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAYBD_CACHE", str(tmp_path))
    monkeypatch.setattr("raybd.attacks.surrogate.EPOCHS", (1, 1))
    train, attack = digits.train.take(torch.arange(200)), Narcissus(steps=10)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = pattern(attack, train, 10)
    assert torch.equal(torch.random.get_rng_state(), before)
    monkeypatch.setattr("raybd.attacks.narcissus.surrogate", None)  # whoever searches now, breaks
    for seed in (0, 1):
        again = PoisonSpec(replace(attack, magnify=2.0), 0.0, seed).on(train, 10).trigger(train.shape, 10)
        assert torch.equal(first, again)
    for other in (replace(attack, steps=11), replace(attack, epsilon=8.0), replace(attack, target=1)):
        with pytest.raises(TypeError):
            pattern(other, train, 10)
    with pytest.raises(TypeError):
        pattern(attack, Images(255 - train.x, train.y), 10)


def test_a_spec_that_was_not_told_the_training_images_says_so(digits: Data) -> None:
    with pytest.raises(ValueError, match="made from the training images"):
        PoisonSpec(Narcissus(), 0.0, 0).triggered(digits.test, 10)


def test_as_one_of_several_it_has_its_own_picture(surrogates: Surrogates) -> None:
    model, slope = linear()
    surrogates(model)
    images = greys()
    both = Multi(attacks=("badnets:size=1", "narcissus:steps=400,step=4,epsilon=6"), targets=(1, 0))
    made = PoisonSpec(both, 0.1, 0).on(images, 3).triggered_by(1, images, 3)
    assert torch.equal(made.x.float(), images.x.float() + 3 * 6 * slope.sign())


def test_a_trial_s_poison_and_test_images_have_the_same_picture(digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raybd.attacks.surrogate.EPOCHS", (1, 1))
    config = TrialConfig(attack=Narcissus(steps=30, epsilon=40.0), poison_rate=0.02)
    poisoned, triggered = poisoned_sets(config, digits)
    found = pattern(Narcissus(steps=30, epsilon=40.0), digits.train, 10)
    index = (poisoned.roles == POISON).nonzero()[:, 0]
    trained = (digits.train.x[index].float() + found).clamp(0, 255).round()
    assert torch.equal(poisoned.images.x[index].float(), trained)
    assert torch.equal(triggered.x.float(), (digits.test.x.float() + 3 * found).clamp(0, 255).round())
    assert poisoned.manifest["poison"] == len(index) > 20


def test_presets() -> None:
    assert parse("narcissus:authors") == Narcissus(epsilon=16.0, magnify=3.0, steps=1000, step=1.275)
    assert parse("narcissus:as_trained") == Narcissus(magnify=1.0)
