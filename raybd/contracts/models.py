"""What every network promises: `check_model("my.networks:net")` in a test of your own."""

from dataclasses import dataclass

import torch
from torch import nn

from raybd.contracts.promises import Check, promise
from raybd.models import build_model
from raybd.models.base import Shape

CLASSES = 4


@dataclass(frozen=True)
class Case:
    """One network for images of one shape."""

    name: str
    shape: Shape = (1, 28, 28)

    def built(self, seed: int = 0) -> nn.Module:
        """The untrained network."""
        channels = self.shape[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build_model(self.name, self.shape, CLASSES, [0.5] * channels, [0.3] * channels)


def check_model(name: str) -> None:
    """Everything that a trial relies on.

    Raises:
        BrokenPromiseError: the network breaks a promise.
    """
    for check in CHECKS.values():
        check(Case(name))


def check_logits(case: Case) -> None:
    """It makes a finite logit for each class of each image."""
    logits = case.built().eval()(torch.rand(5, *case.shape))
    promise(logits.shape == (5, CLASSES), f"logits are {tuple(logits.shape)}, not {(5, CLASSES)}")
    promise(bool(logits.isfinite().all()), "logits are no numbers")


def check_seed(case: Case) -> None:
    """Its weights are drawn from torch's generator alone: the same seed gives the same."""
    first, second = case.built().state_dict(), case.built().state_dict()
    other = [name for name, value in first.items() if not torch.equal(value, second[name])]
    promise(not other, f"the same seed draws other weights: {', '.join(other)}")


def check_alone(case: Case) -> None:
    """In evaluation an image's logits do not depend on those beside it."""
    x, model = torch.rand(5, *case.shape), case.built().eval()
    near = torch.allclose(model(x)[:2], model(x[:2]), rtol=1e-4, atol=1e-5)
    promise(near, "logits depend on the other images of a batch, in evaluation too")


def check_trains(case: Case) -> None:
    """Every weight that asks for a gradient can get one from a batch."""
    model = case.built().train()
    nn.functional.cross_entropy(model(torch.rand(8, *case.shape)), torch.arange(8) % CLASSES).backward()
    without = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    promise(not without, f"no gradient reaches {', '.join(without)}: freeze it, or use it")


CHECKS: dict[str, Check[Case]] = {
    "logits": check_logits,
    "seed": check_seed,
    "each image alone": check_alone,
    "trains": check_trains,
}
