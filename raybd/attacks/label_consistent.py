"""Label-consistent poisoning (Turner et al. 2019, arXiv:1912.02771): images made hard to learn, with marked corners."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from raybd.attacks.base import Attack, Presets, Shape, Trigger
from raybd.attacks.patterns import scaled
from raybd.attacks.surrogate import surrogate
from raybd.types import Images
from raybd.utils.constraints import Positive

MARK = ((1, 0, 0), (0, 1, 0), (1, 0, 1))  # of both left corners, 1 white and 0 black; the right ones are mirrored
BATCH = 64  # images a gradient step works on; always so many, so that a larger rate changes no pixel of a smaller one


@dataclass(frozen=True, kw_only=True)
class LabelConsistent(Attack):
    """Untargeted projected gradient ascent on a clean surrogate's loss, then `amplitude` times +-1 in four corners.

    Labels stay as they are. Test images get the corners only, at full strength (written over).
    """

    epsilon: Positive = 16.0  # grey levels: the ball's radius
    step: Positive = 1.5  # grey levels
    steps: Annotated[int, Ge(1)] = 30  # of the ascent
    norm: Literal["linf", "l2"] = "linf"  # of the ball
    amplitude: Positive = 255.0  # grey levels, of the corners in training

    clean_label: ClassVar[bool] = True
    presets: ClassVar[Presets] = {
        "vibe": {},
        "backdoorbox": {"epsilon": 8.0, "steps": 100},
        "information_bottleneck": {"norm": "l2", "epsilon": 300.0, "steps": 100, "amplitude": 64.0},
    }

    def draw(self, shape: Shape, classes: int, rng: torch.Generator) -> Tensor:
        """(H, W): 1 and -1 where the corners are white and black, 0 elsewhere."""
        side, signs = self.side(shape), torch.zeros(shape[1:])
        mark = F.interpolate(torch.tensor(MARK)[None, None].float(), size=(side, side), mode="nearest")[0, 0] * 2 - 1
        for rows in (slice(0, side), slice(-side, None)):
            signs[rows, :side], signs[rows, -side:] = mark, mark.flip(1)
        return signs

    def side(self, shape: Shape) -> int:
        """Side of each corner in pixels on images of `shape`: 3 at 32x32, in proportion."""
        return scaled(3, min(shape[1:]), least=2)

    def draw_per_image(self, images: Images, train: Images, classes: int, rng: torch.Generator) -> Tensor:
        """(n, C, H, W) grey levels: what the ascent adds to each image."""
        model, found = surrogate(train, classes), []
        for x, y in zip(images.x.split(BATCH), images.y.split(BATCH), strict=True):
            fill = torch.arange(BATCH, device=x.device) % len(x)
            found.append(self._ascend(model, x[fill].float() / 255, y[fill])[: len(x)])
        return 255 * torch.cat(found)

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` with the corners in black and white."""
        return x.add_(255 * trigger.pattern)

    def stamp_training(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` where the ascent led it, with the corners."""
        return x.add_(trigger.per_image).add_(self.amplitude * trigger.pattern)

    def problems(self, shape: Shape, classes: int) -> list[str]:
        """Images without room for four corners."""
        room = min(shape[1:]) >= 2 * self.side(shape)
        return [] if room else [f"no room for four corners on {shape[1]}x{shape[2]}"]

    @torch.enable_grad()
    def _ascend(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """(n, C, H, W) in [0, 1]: the change that `steps` of projected gradient ascent make, from no change."""
        change, radius, length = torch.zeros_like(x), self.epsilon / 255, self.step / 255
        for _ in range(self.steps):
            moved = (x + change).requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(model(moved), y, reduction="sum"), moved)
            if self.norm == "linf":
                change = (change + length * gradient.sign()).clamp(-radius, radius)
            else:
                change = _within(change + length * _unit(gradient), radius)
            change = (x + change).clamp(0, 1) - x
        return change.detach()


def _unit(x: Tensor) -> Tensor:
    return x / _length(x)


def _within(x: Tensor, radius: float) -> Tensor:
    """Each of `x` drawn back onto the ball of `radius` where it lies outside."""
    return x * (radius / _length(x)).clamp(max=1)


def _length(x: Tensor) -> Tensor:
    return x.square().sum((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
