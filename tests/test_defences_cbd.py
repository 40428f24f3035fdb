"""CBD's weights, its critic and its loss, against hand-made cases and a brute-force bound."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raybd.defences import TrainingContext
from raybd.defences.cbd import Cbd, climb, dependence, new_critic, weights_of
from raybd.defences.first_training import train_twice
from raybd.models import Classifier, build_model
from raybd.seeds import stream
from raybd.training import TrainConfig
from raybd.types import Data


def context(digits: Data) -> TrainingContext:
    torch.manual_seed(0)
    model = build_model("small_cnn", digits.train.shape, 10, digits.mean, digits.std, width=0.25)
    images = digits.train.take(torch.arange(200))
    train_config = TrainConfig(epochs=2, learning_rate=0.02)
    return TrainingContext(model=model, images=images, classes=10, train_config=train_config, seed=0)


def test_weights_by_hand() -> None:
    first, own = torch.tensor([3.0, 0.0, 1.0, 1.0]), torch.tensor([1.0, 5.0, 1.0, 3.0])
    raw = np.array([0.75, 0.0, 0.5, 0.25])
    np.testing.assert_allclose(weights_of(first, own).numpy(), raw / raw.mean(), rtol=1e-6)
    np.testing.assert_allclose(weights_of(5 * first, 5 * own), weights_of(first, own), rtol=1e-6)  # a scale is nothing
    assert weights_of(torch.zeros(2), torch.ones(2)).tolist() == [0, 0]


def test_the_dependence_by_hand_and_of_features_that_say_nothing() -> None:
    critic = nn.Linear(2, 1, bias=False)
    r, z = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[1.0], [3.0], [0.0]])

    class Product(nn.Module):
        def forward(self, both: torch.Tensor) -> torch.Tensor:
            return both[:, :1] * both[:, 1:]

    assert float(dependence(critic, r, z).detach()) == pytest.approx(0, abs=1e-6)  # of a sum, the margins cancel
    assert float(dependence(Product(), r, z)) == pytest.approx((1 + 6 + 0) / 3 - (3 + 0 + 4) / 3)
    assert float(dependence(Product(), r, torch.full_like(z, 2.0))) == 0


def test_a_climbing_critic_keeps_lipschitz_constant_one_and_finds_what_depends(digits: Data) -> None:
    at = context(digits)
    assert isinstance(at.model, Classifier)
    critic = new_critic(at.model, at)
    climber = torch.optim.Adam(critic.parameters(), lr=0.02)
    z = torch.randn(256, at.model.feature_size, generator=stream(0, "z"))
    for _ in range(60):
        climb(critic, climber, z, z)
    critic.eval()
    norms = [float(torch.linalg.matrix_norm(w, 2)) for w in critic.parameters() if w.ndim == 2]
    assert norms == pytest.approx([1, 1], abs=1e-4)
    a, b = (torch.randn(500, 2 * z.shape[1], generator=stream(0, name)) for name in "ab")
    with torch.no_grad():
        steep = (critic(a) - critic(b)).abs()[:, 0] / (a - b).norm(dim=1)
        independent = torch.randn(256, z.shape[1], generator=stream(0, "other"))
        told = float(dependence(critic, z, z)), float(dependence(critic, independent, z))
    assert float(steep.max()) <= 1 + 1e-4
    assert told[0] > 0.1 > abs(told[1])


def test_the_loss_by_its_definition(digits: Data) -> None:
    at = context(digits)
    model = at.model
    assert isinstance(model, Classifier)
    other, critic = copy.deepcopy(model).eval(), new_critic(model, at).eval()
    with torch.no_grad():
        other.head.weight.mul_(3)
    x, y = at.images.x[:16].float() / 255, at.images.y[:16]
    still = torch.optim.SGD(critic.parameters(), lr=0.0)
    with torch.no_grad():
        for weight in critic.parameters():  # the norms that a step of nothing leaves
            if weight.ndim == 2:
                weight.div_(torch.linalg.matrix_norm(weight, 2))
    model.eval()
    loss = Cbd(disentangle=0.5)._loss(model, other, critic, still, x, y, y)
    with torch.no_grad():
        z, r = model.features(model.normalise(x)), other.features(other.normalise(x))
        own = F.cross_entropy(model(x), y, reduction="none").double().numpy()
        first = F.cross_entropy(other(x), y, reduction="none").double().numpy()
        both = critic(torch.cat([r, z], 1)).mean() - critic(torch.cat([r, z[[*range(1, 16), 0]]], 1)).mean()
    weights = first / (first + own)
    wanted = (weights / weights.mean() * own).mean() + 0.5 * float(both)
    assert float(loss.detach()) == pytest.approx(wanted, rel=1e-5)
    plain = Cbd(disentangle=0.0)._loss(model, other, critic, still, x, y, y)
    assert float(plain.detach()) == pytest.approx((weights / weights.mean() * own).mean(), rel=1e-5)


def test_the_first_training_is_the_plain_one_at_a_constant_rate_and_leaves_the_network_alone(digits: Data) -> None:
    at = context(digits)
    before = copy.deepcopy(at.model.state_dict())
    seen: list[nn.Module] = []

    def find(first: nn.Module, cost: object) -> dict[str, object]:
        seen.append(first)
        return {}

    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x), y)

    trainer, _ = train_twice(at, at.model, 3, loss, find)
    assert all(torch.equal(value, before[key]) for key, value in at.model.state_dict().items())
    assert trainer.cost.passes == 3
    from raybd.training import fit

    usual = context(digits)
    constant = TrainConfig(epochs=3, learning_rate=0.02, schedule="constant")
    list(fit(usual.model, usual.images, constant, 0))
    theirs = seen[0].state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in usual.model.state_dict().items())
