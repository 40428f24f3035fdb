"""A package of somebody else's with a method of every kind, which tests install into a folder of theirs."""

from pathlib import Path

ATTACKS = """
from dataclasses import dataclass
from typing import ClassVar

from own_methods.pixels import brighter
from raybd.attacks import Attack
from raybd.attacks.base import Presets


@dataclass(frozen=True, kw_only=True)
class Stripe(Attack):
    column: int = 0
    by: float = 120.0

    presets: ClassVar[Presets] = {"strong": {"by": 200.0}}

    def stamp(self, x, trigger):
        return brighter(x, self.column, self.by)


@dataclass(frozen=True, kw_only=True)
class Idle(Attack):
    def stamp(self, x, trigger):
        return x
"""
PIXELS = """
def brighter(x, column, by):
    x[..., column] += by
    return x
"""
DEFENCES = """
from dataclasses import dataclass, replace

import torch

from raybd.defences import Defence
from raybd.training import fit


@dataclass(frozen=True, kw_only=True)
class LabelNoise(Defence):
    share: float = 0.1

    def train(self, context):
        rng = torch.Generator().manual_seed(context.seed)
        y = context.images.y
        drawn = torch.randint(context.classes, y.shape, generator=rng).to(y.device)
        some = (torch.rand(len(y), generator=rng) < self.share).to(y.device)
        images = replace(context.images, y=torch.where(some, drawn, y))
        yield from fit(context.model, images, context.train_config, context.seed, context.checkpoint)


@dataclass(frozen=True, kw_only=True)
class Forgetful(Defence):
    def train(self, context):
        context.images.y.zero_()
        yield from fit(context.model, context.images, context.train_config, 0)
"""
METRICS = """
from dataclasses import dataclass

import torch

from raybd.metrics import Metric


@dataclass(frozen=True, kw_only=True)
class Margin(Metric):
    scale: float = 1.0

    def measure(self, context):
        logits, wanted = context.triggered_logits, context.triggered.y
        return {"margin/wanted": self.scale * float((logits.gather(1, wanted[:, None]) - logits.mean(1, True)).mean())}


@dataclass(frozen=True, kw_only=True)
class Careless(Metric):
    def measure(self, context):
        context.model.train()
        return {"careless=1": float(torch.rand(1))}
"""
DATA = """
from dataclasses import dataclass

import numpy as np

from raybd.data import DataSource


@dataclass(frozen=True, kw_only=True)
class Blobs(DataSource):
    side: int = 8
    seed: int = 0

    def arrays(self, root):
        rng = np.random.default_rng(self.seed)
        y = np.arange(240) % 3
        x = rng.integers(0, 60, (240, self.side, self.side)) + 80 * y[:, None, None]
        x = x.astype(np.uint8)
        return {
            "x_train": x[:160],
            "y_train": y[:160],
            "x_test": x[160:],
            "y_test": y[160:],
            "classes": ["dark", "grey", "light"],
        }


@dataclass(frozen=True, kw_only=True)
class Moody(Blobs):
    def arrays(self, root):
        return Blobs(seed=int(np.random.default_rng().integers(2**31))).arrays(root)
"""
MODELS = """
from torch import nn


def net(shape, classes):
    channels, height, width = shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, 16), nn.ReLU(), nn.Linear(16, classes))


def flat(shape, classes):
    return nn.Sequential(nn.Flatten(0), nn.Linear(5 * shape[1] * shape[2], classes))
"""
PROPOSERS = """
from dataclasses import dataclass

from raybd.execution.proposers import GridProposer, Signal


@dataclass(kw_only=True)
class UntilItTakesHold(GridProposer):
    needs_metrics = True
    success: float = 0.5

    def begin(self, trials):
        self._left = sorted(trials, key=lambda trial: trial.poison_rate)
        self._flying = 0
        self._found = False

    def next(self):
        if self._flying:
            return Signal.WAIT
        if self._found or not self._left:
            return Signal.DONE
        self._flying += 1
        return self._left.pop(0)

    def tell(self, outcome):
        self._flying -= 1
        self._found = outcome.metrics.get("attack_success", 0.0) >= self.success


@dataclass(kw_only=True)
class Endless(UntilItTakesHold):
    def next(self):
        return self._left[0]
"""
ENTRY_POINTS = """
[raybd.attacks]
stripe = own_methods.attacks:Stripe
badnets = own_methods.attacks:Stripe

[raybd.defences]
label_noise = own_methods.defences:LabelNoise

[raybd.metrics]
margin = own_methods.metrics:Margin

[raybd.data]
blobs = own_methods.data:Blobs

[raybd.models]
own_net = own_methods.models:net

[raybd.proposers]
until = own_methods.proposers:UntilItTakesHold
"""
MODULES = {
    "attacks": ATTACKS,
    "pixels": PIXELS,
    "defences": DEFENCES,
    "metrics": METRICS,
    "data": DATA,
    "models": MODELS,
    "proposers": PROPOSERS,
}


def install(folder: Path) -> None:
    """Put the package and its metadata into `folder`, as an installer does, beside two packages that are broken."""
    package = folder / "own_methods"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    for name, code in MODULES.items():
        (package / f"{name}.py").write_text(code)
    metadata(folder, "own_methods", ENTRY_POINTS)
    metadata(folder, "broken_methods", "[raybd.attacks]\nbroken = broken_methods.nowhere:Attack\n")
    metadata(folder, "mangled_methods", "[raybd.attacks\nthis is no entry point\n")


def metadata(folder: Path, name: str, entry_points: str) -> None:
    """The metadata of a package, with its entry points."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
