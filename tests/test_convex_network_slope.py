"""The slope of a network at its optimum: equal to logistic regression's where it is one, and to a secant elsewhere."""

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.attacks import BadNets
from raybd.attacks.poisoning import PoisonSpec
from raybd.convex import BinaryTask, Logistic, slope_exact
from raybd.convex.learner import NotUniqueError
from raybd.convex.networks import network_slope
from raybd.data import load
from raybd.trials.convex import points
from raybd.types import POISON, Images

DECAY = 1e-2
Parts = tuple[Images, Images, Images]


@cache
def parts() -> Parts:
    """Clean, poisoned and triggered images of digits 7 and 1."""
    data = load("digits[7,1]")
    recipe = PoisonSpec(BadNets(pattern="per_class", labels="all_to_all"), 0.1, 1)
    poisoned, triggered = recipe.poison(data.train, 2), recipe.triggered(data.test, 2)
    poison = poisoned.roles == POISON
    return poisoned.images.take(~poison), poisoned.images.take(poison), triggered


class Line(nn.Module):
    """Logits that differ by a linear function."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        half = self.line(x.flatten(1)) / 2
        return torch.cat([-half, half], 1)


def tanh() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def train(model: nn.Module, beta: float) -> nn.Module:
    """`model` at the optimum of mean CE on clean images + beta * CE of poison over the clean count + weight decay."""
    clean, poison, _ = parts()
    model = copy.deepcopy(model).double()
    options = {"max_iter": 3000, "tolerance_grad": 1e-12, "tolerance_change": 0, "history_size": 50}
    optimiser = torch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe", **options)

    def closure() -> Tensor:
        optimiser.zero_grad()
        sums = [F.cross_entropy(model(i.x.double() / 255), i.y, reduction="sum") for i in (clean, poison)]
        value = (sums[0] + beta * sums[1]) / len(clean)
        value = value + DECAY / 2 * sum((p * p).sum() for p in model.parameters())
        value.backward()
        return value

    optimiser.step(closure)
    return model


def curve(model: nn.Module) -> float:
    triggered = parts()[2]
    return float(F.cross_entropy(model(triggered.x.double() / 255), triggered.y))


def test_a_linear_network_has_the_slope_of_logistic_regression() -> None:
    clean, poison, triggered = parts()
    both = Images(torch.cat([clean.x, poison.x]), torch.cat([clean.y, poison.y]))
    flags = (torch.arange(len(both)) >= len(clean)).numpy()

    def sign(images: Images) -> object:
        return (2.0 * images.y - 1).double().numpy()

    task = BinaryTask(points(both), sign(both), flags, points(clean), sign(clean), points(triggered), sign(triggered))
    exact = slope_exact(Logistic(C=1 / (DECAY * len(clean))), task).derivative
    found = network_slope(train(Line(), 0.0), clean, poison, triggered, DECAY)
    assert found.gradient < 1e-8
    assert found.derivative == pytest.approx(exact, rel=1e-6)


def test_a_network_s_slope_is_the_limit_of_secants_and_damping_shrinks_it() -> None:
    before = train(tanh(), 0.0)
    found = network_slope(before, *parts(), DECAY)
    secant = (curve(train(before, 1e-4)) - curve(before)) / 1e-4
    assert found.derivative < 0
    assert secant == pytest.approx(found.derivative, rel=0.01)
    sizes = [abs(network_slope(before, *parts(), DECAY, damping).derivative) for damping in (0.0, 1e-3, 1e-2, 1e-1)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2] < 0.9 * sizes[0]
    assert 0 < found.theta < 1


def test_the_network_is_left_as_it_was_and_one_at_no_minimum_is_refused() -> None:
    model = tanh()
    before = copy.deepcopy(model.state_dict())
    clean, poison, triggered = parts()
    turned = replace(clean, y=1 - clean.y)  # far from any optimum of a network that was trained on the other labels
    trained = train(model, 0.0)
    with pytest.raises(NotUniqueError, match="at no minimum"):
        network_slope(trained, turned, poison, triggered, 0.0)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(model.state_dict()[k], before[k]) for k in before)
    assert trained.training
