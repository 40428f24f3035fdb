"""What the tests of smoothness and stealth share: networks that are formulas, and networks trained on a patch."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from raybd.data import load
from raybd.models import Classifier
from raybd.seeds import stream
from raybd.training import TrainConfig, fit, predict
from raybd.types import POISON, Data, Images, MetricContext, Poisoned

SHAPE = (3, 4, 4)
SIZE = 48
TARGET = 0
HOW = TrainConfig(epochs=10, optimizer="adamw", learning_rate=3e-3)


class Rule(nn.Module):
    """A network that is a formula: flat images (N, D) -> logits (N, K)."""

    def __init__(self, formula: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.formula = formula
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.formula(x.flatten(1))


def unit(seed: int, size: int = SIZE) -> Tensor:
    w = torch.randn(size, generator=stream(seed, "test"), dtype=torch.float64)
    return w / w.norm()


def plane(w: Tensor, margin: float, at: Tensor) -> Callable[[Tensor], Tensor]:
    """Logit of class 1 against 0: the signed distance to a plane that lies `margin` from `at`."""
    return lambda x: (x - at.flatten()) @ w.to(x) + margin


def point(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.rand(shape, generator=stream(seed, "point"), dtype=torch.float64)


def half_space(margin: float, x: Tensor) -> Rule:
    distance = plane(unit(1), margin, x)
    return Rule(lambda z: torch.stack([torch.zeros(len(z)).to(z), distance(z)], 1))


class Flat(Classifier):
    """Three convolutions with batch norm and a head that knows places: a pooled one takes noise for the trigger."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], channels: Sequence[int] = (16, 32, 32)) -> None:
        super().__init__(mean, std)
        a, b, c = channels
        self.body = nn.Sequential(*block(1, a), *block(a, b), nn.MaxPool2d(2), *block(b, c), nn.Flatten())
        self.head = nn.Linear(c * 16, 10)

    def features(self, x: Tensor) -> Tensor:
        found: Tensor = self.body(x)
        return found


def block(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]


def stamped(x: Tensor) -> Tensor:
    x = x.clone()
    x[..., -2:, -2:] = 255
    return x


def poisoned(images: Images, rate: float, seed: int) -> Poisoned:
    others = (images.y != TARGET).nonzero().flatten()
    victims = others[torch.randperm(len(others), generator=stream(seed, "victims"))[: round(rate * len(images))]]
    x, y, roles = images.x.clone(), images.y.clone(), torch.zeros(len(images), dtype=torch.uint8)
    x[victims], y[victims], roles[victims] = stamped(x[victims]), TARGET, POISON
    every: dict[str, Any] = {"images": Images(x, y), "roles": roles, "true": images.y}
    every |= {"member": torch.zeros_like(roles), "triggers": ("",)}
    return Poisoned(**{f.name: every[f.name] for f in fields(Poisoned) if f.name in every})


@cache
def trained(rate: float, seed: int) -> MetricContext:
    """What a trial of this poison rate and seed shows after its last epoch; a few seconds, once a session."""
    torch.set_num_threads(1)
    data = load("digits")
    torch.manual_seed(seed)
    model = Flat(data.mean, data.std)
    shown = poisoned(data.train, rate, seed)
    for _ in fit(model, shown.images, HOW, seed):
        pass
    model.zero_grad()
    return evidence(model.eval(), data, shown, seed)


def evidence(model: nn.Module, data: Data, shown: Poisoned, seed: int = 0) -> MetricContext:
    triggered = Images(stamped(data.test.x), torch.full_like(data.test.y, TARGET))
    return MetricContext(
        model=model,
        data=data,
        poisoned=shown,
        triggered=triggered,
        measured=data.test.y != TARGET,
        clean_logits=predict(model, data.test.x, HOW),
        triggered_logits=predict(model, triggered.x, HOW),
        seed=seed,
        epoch=HOW.epochs,
    )
