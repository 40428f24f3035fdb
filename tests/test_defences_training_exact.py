"""Losses, weights and loops of the defences that train otherwise, against closed forms and the plain loop."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import beta as beta_law
from scipy.stats import kstest
from torch import Tensor

from raybd.defences import TrainingContext
from raybd.defences.abl import local_ascent, unlearning_weights
from raybd.defences.asd import Asd, drawn_seeds, later_weights
from raybd.defences.augmented import beta, cut_out, mix
from raybd.defences.dbd import symmetric
from raybd.defences.mixmatch import MixMatch, sharpen, terms
from raybd.defences.trainer import Trainer, losses_of, lowest, lowest_of_each
from raybd.models import build_model
from raybd.seeds import stream
from raybd.training import TrainConfig, fit
from raybd.types import Data, Images

HOW = TrainConfig(epochs=2, crop=1)


def context(digits: Data, seed: int = 0, n: int = 300) -> TrainingContext:
    torch.manual_seed(0)
    model = build_model("small_cnn", digits.train.shape, 10, digits.mean, digits.std, width=0.25)
    images = digits.train.take(torch.arange(n))
    return TrainingContext(model=model, images=images, classes=10, train_config=HOW, seed=seed)


def weights(at: TrainingContext) -> Tensor:
    return torch.cat([value.flatten().double() for value in at.model.state_dict().values()])


def test_the_plain_loss_has_the_bits_of_the_plain_loop(digits: Data) -> None:
    own, usual = context(digits), context(digits)
    trainer = Trainer(own)
    losses = [trainer.epoch(n, own.images, lambda x, y, _: F.cross_entropy(own.model(x), y)) for n in (1, 2)]
    assert losses == [epoch.loss for epoch in fit(usual.model, usual.images, HOW, 0)]
    assert torch.equal(weights(own), weights(usual))
    assert trainer.cost.numbers(2)["defence/passes"] == 0


def test_local_gradient_ascent_by_hand() -> None:
    losses = torch.tensor([0.2, 0.4, 0.6, 3.0], requires_grad=True)
    value = local_ascent(losses, 0.5)
    value.backward()
    assert float(value.detach()) == pytest.approx((-0.2 - 0.4 + 0.6 + 3.0) / 4, rel=1e-6)
    assert losses.grad is not None
    assert losses.grad.tolist() == [-0.25, -0.25, 0.25, 0.25]


def test_a_descent_on_the_lga_loss_is_trapped_at_gamma() -> None:
    logits = torch.zeros(1, 3, requires_grad=True)
    for _ in range(2000):
        loss = F.cross_entropy(logits, torch.tensor([0]), reduction="none")
        (grad,) = torch.autograd.grad(local_ascent(loss, 0.5), logits)
        logits = (logits - 0.01 * grad).detach().requires_grad_()
    assert float(loss) == pytest.approx(0.5, abs=0.01)


def test_the_weights_of_unlearning_make_the_difference_of_means() -> None:
    rng = torch.Generator().manual_seed(0)
    losses, poison = torch.rand(50, generator=rng), torch.arange(50) % 7 == 0
    value = float((unlearning_weights(poison) * losses).mean())
    assert value == pytest.approx(float(losses[~poison].mean() - losses[poison].mean()), abs=1e-6)


def test_symmetric_cross_entropy_by_its_definition() -> None:
    logits, y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double(), torch.tensor([0, 1, 2, 3, 0, 1])
    p, hot = logits.softmax(1).numpy(), np.eye(4)[y]
    forward = -(hot * np.log(p)).sum(1)
    backward = -(p * np.where(hot == 1, 0.0, -4.0)).sum(1)
    assert np.allclose(symmetric(logits, y).numpy(), 0.1 * forward + backward, rtol=1e-12)
    assert float(symmetric(torch.tensor([[50.0, 0.0]]), torch.tensor([0]))) == pytest.approx(0, abs=1e-6)


def test_sharpening_by_its_definition() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(sharpen(p, 0.5), p**2 / (p**2).sum(1, keepdim=True), atol=1e-12)
    assert torch.allclose(sharpen(p, 1.0), p, atol=1e-12)


def test_the_loss_of_mixmatch_by_its_definition() -> None:
    rng = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(9, 4, generator=rng).double(), torch.rand(9, 4, generator=rng).double().softmax(1)
    p, q = logits.softmax(1).numpy(), targets.numpy()
    known = -(q[:3] * np.log(p[:3])).sum(1).mean()
    rest = (((p[3:] - q[3:]) ** 2).sum(1) / 4).mean()
    assert float(terms(logits, targets, 3, 15.0)) == pytest.approx(known + 15 * rest, rel=1e-12)


@pytest.mark.parametrize("alpha", [0.2, 0.75, 1.0])
def test_shares_follow_the_beta_law(alpha: float) -> None:
    rng = stream(0, "test")
    draws = [float(beta(alpha, rng)) for _ in range(3000)]
    assert kstest(draws, beta_law(alpha, alpha).cdf).pvalue > 0.01
    one, other = torch.ones(2), torch.full((2,), 5.0)
    assert mix(one, other, torch.tensor(0.25)).tolist() == [4.0, 4.0]


def test_a_hole_is_a_square_about_any_pixel() -> None:
    x = cut_out(torch.ones(4000, 1, 8, 8), 4, stream(0, "test"))
    black = (x == 0).sum((1, 2, 3))
    # About each pixel alike: rows (and columns) of the hole inside are 2, 3, 4 x 5 and 3 of 8 centres.
    inside = [min(8, c + 2) - max(0, c - 2) for c in range(8)]
    assert set(black.tolist()) == {a * b for a in inside for b in inside}
    assert float(black.float().mean()) == pytest.approx(np.mean(inside) ** 2, rel=0.02)


def test_the_lowest_are_the_lowest() -> None:
    values, y = torch.tensor([3.0, 1, 2, 1, 0, 9]), torch.tensor([0, 0, 0, 1, 1, 2])
    assert lowest(values, 2).nonzero()[:, 0].tolist() == [1, 4]
    assert lowest_of_each(values, y, 3, 1).nonzero()[:, 0].tolist() == [1, 4, 5]
    assert not lowest_of_each(values, y, 3, 0).any()


def test_losses_go_with_their_images_where_the_set_is_shuffled(digits: Data) -> None:
    at = context(digits)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    losses = losses_of(at.model, at.images, at)
    x = at.images.x.float() / 255
    at.model.eval()
    with torch.no_grad():
        alone = [float(F.cross_entropy(at.model(x[i : i + 1]), at.images.y[i : i + 1])) for i in range(20)]
    assert losses[:20].tolist() == pytest.approx(alone, abs=1e-5)
    assert torch.allclose(losses_of(at.model, at.images.take(order), at), losses[order], atol=1e-5)


def test_mixmatch_learns_from_half_of_the_labels_and_never_from_the_others(digits: Data) -> None:
    at = replace(context(digits, n=len(digits.train)), train_config=TrainConfig(epochs=12))
    believed = torch.rand(len(at.images), generator=torch.Generator().manual_seed(1)) < 0.5
    wrong = torch.where(believed, at.images.y, (at.images.y + 1) % 10)
    trainer = Trainer(at)
    for number in range(1, 13):
        assert math.isfinite(MixMatch().epoch(trainer, number, Images(at.images.x, wrong), believed))
    right = losses_of(at.model, digits.test, at) < math.log(2)
    assert float(right.float().mean()) >= 0.9  # measured beside: 0.97 of the classes are right
    twin = replace(context(digits, n=len(digits.train)), train_config=TrainConfig(epochs=12))
    again = Trainer(twin)
    for number in range(1, 13):
        MixMatch().epoch(again, number, twin.images, believed)
    assert torch.equal(weights(at), weights(twin))


def test_seeds_are_so_many_of_each_class(digits: Data) -> None:
    at = replace(context(digits), trusted=digits.test)
    seeds = drawn_seeds(at, 10)
    assert torch.bincount(seeds.y).tolist() == [10] * 10
    assert not torch.equal(drawn_seeds(replace(at, seed=1), 10).x, seeds.x)


@pytest.mark.parametrize(("name", "first"), [("small_cnn", "blocks.2.0.weight"), ("resnet18", "blocks.4.conv1.weight")])
def test_the_virtual_model_is_trained_from_the_middle_of_its_blocks_on(digits: Data, name: str, first: str) -> None:
    """Of four stages of two blocks, the last two: what the authors' code trains."""
    model = build_model(name, digits.train.shape, 10, digits.mean, digits.std, width=0.1)
    trained = {id(weight) for weight in later_weights(model)}
    names = [key for key, weight in model.named_parameters() if id(weight) in trained]
    assert names[0] == first
    assert names == [key for key, _ in model.named_parameters()][-len(names) :]
    assert names[-1] == "head.bias"
    bare = torch.nn.Linear(2, 2)
    assert [id(weight) for weight in later_weights(bare)] == [id(weight) for weight in bare.parameters()]


def test_the_virtual_model_leaves_the_network_alone(digits: Data) -> None:
    at = context(digits)
    trainer, before = Trainer(at), weights(at)
    Asd()._virtual(trainer, 1, at.images)
    assert torch.equal(weights(at), before)
