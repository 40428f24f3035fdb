"""AdvDoor (Zhang et al., ISSTA 2021): a targeted universal adversarial perturbation of a clean network as trigger."""

from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor, nn

from raybd.attacks.base import Attack, Presets, Shape, Trigger
from raybd.attacks.surrogate import SEED, surrogate, trained_once
from raybd.seeds import stream
from raybd.types import Images
from raybd.utils.constraints import Positive, PositiveShare

STEPS = 20  # of DeepFool; a path of 19 or more is not taken. These three as in the authors' code
OVERSHOOT = 0.02
CONFIDENCE = 0.8  # probability of the target at which a path ends
BATCH = 256  # images whose class is asked at once


@dataclass(frozen=True, kw_only=True)
class AdvDoor(Attack):
    """x + v, with one v for all images, |v| <= `epsilon`, for which a clean surrogate calls x + v the target.

    TUAP by DeepFool: v = 0; for each x of other classes that the surrogate does not yet call the target with v,

        v <- clip(v + r, -epsilon, epsilon)

    with r DeepFool's targeted path from x + v; pass after pass over the images, until `success` of them are called the
    target, at most `passes` times. A step of the path is 2 |f_t - f_s| w / |w|^2 with logits f, w = grad(f_t - f_s),
    t the target and s the class of x. The surrogate is trained here on all training images.
    """

    epsilon: Positive = 30.0  # grey levels: the ball's radius
    success: PositiveShare = 0.8  # share of the images called the target at which the search ends
    passes: Annotated[int, Ge(1)] = 5  # over the images, at most
    images: Annotated[int, Ge(1)] = 500  # that v is searched on, at most

    presets: ClassVar[Presets] = {"authors": {"images": 5000}}

    def draw_from(self, train: Images, classes: int, rng: torch.Generator) -> Tensor:
        """v: (C, H, W) grey levels; one for all trials, made once for each training set."""
        settings = {f.name: getattr(self, f.name) for f in fields(self)}
        return trained_once("advdoor", train, f"{classes} {settings}", partial(self._searched, train, classes))

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` with v."""
        return x.add_(trigger.pattern)

    def problems(self, shape: Shape, classes: int) -> list[str]:
        """A picture that rounds to nothing, several targets."""
        found = [] if self.epsilon >= 1 else [f"epsilon must be at least 1 grey level, got {self.epsilon:g}"]
        if self.labels == "all_to_all":
            found.append("v is searched for one target: labels must be all_to_one")
        return found

    def _searched(self, train: Images, classes: int) -> Tensor:
        model, others = surrogate(train, classes), (train.y != self.target).nonzero()[:, 0].cpu()
        order = torch.randperm(len(others), generator=stream(SEED, "advdoor"))[: self.images]
        some = train.take(others[order].to(train.y.device))
        change, radius = torch.zeros((1, *train.shape), device=train.y.device), self.epsilon / 255
        for number in range(self.passes):
            rng = stream(SEED, "advdoor", number)
            for k in torch.randperm(len(some), generator=rng).tolist():
                change = self._moved(model, some.x[k : k + 1].float() / 255, int(some.y[k]), change, radius)
            if called(model, some.x, change, self.target) >= self.success:
                break
        return 255 * change[0].cpu()

    def _moved(self, model: nn.Module, x: Tensor, source: int, change: Tensor, radius: float) -> Tensor:
        """v after the image `x` (1, C, H, W) of class `source`."""
        path = deepfool(model, x + change, source, self.target)
        return change if path is None else (change + path).clamp(-radius, radius)


@torch.enable_grad()
def deepfool(model: nn.Module, x: Tensor, source: int, target: int) -> Tensor | None:
    """The targeted path (1, C, H, W) from `x` to where `model` calls it `target` with a probability of 0.8, in [0, 1].

    None where it is called so already (with whatever probability), or where the path has 19 steps or more.
    """
    moved, total = x, torch.zeros_like(x)
    for step in range(STEPS - 1):
        moved = moved.detach().requires_grad_()
        logits = model(moved)[0]
        if logits.argmax() == target and (step == 0 or logits.softmax(0)[target] >= CONFIDENCE):
            return None if step == 0 else (1 + OVERSHOOT) * total
        gap = logits[target] - logits[source]
        (slope,) = torch.autograd.grad(gap, moved)
        total = total + 2 * gap.detach().abs() * slope / slope.square().sum().clamp_min(1e-12)
        moved = (x + (1 + OVERSHOOT) * total).clamp(0, 1)
        total = (moved - x) / (1 + OVERSHOOT)
    return None


@torch.no_grad()
def called(model: nn.Module, x: Tensor, change: Tensor, target: int) -> float:
    """The share of the images `x` (n, C, H, W) uint8 that `model` calls `target` with `change` in [-1, 1] added."""
    parts = [model((some.float() / 255 + change).clamp(0, 1)).argmax(1) == target for some in x.split(BATCH)]
    return float(torch.cat(parts).double().mean())
