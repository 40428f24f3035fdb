"""Narcissus (Zeng et al., CCS 2023, arXiv:2204.05255): a clean-label trigger that points into the target class."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from raybd.attacks.base import Attack, Presets, Shape, Trigger
from raybd.attacks.surrogate import SEED, surrogate, trained_once
from raybd.seeds import stream
from raybd.types import Images
from raybd.utils.constraints import Positive

BATCH = 350  # target images of a step, as in the authors' code


@dataclass(frozen=True, kw_only=True)
class Narcissus(Attack):
    """x + d in training and x + `magnify` d at test, d one picture for all images:

    d = argmin over |d| <= `epsilon` of mean cross-entropy(surrogate(clip(x + d)), target), x the target's images.

    Solved (eq. 2) by `steps` of RAdam from d = 0, d cut to the ball wherever it is used. Labels stay as they are. The
    surrogate is trained here on all training images, once: an attacker who knows more than the paper's, who has the
    target class and other people's images.
    """

    epsilon: Positive = 16.0  # grey levels: the ball's radius
    magnify: Positive = 3.0  # how much stronger the picture is at test
    steps: Annotated[int, Ge(1)] = 1000  # batches of 350 images of the target class
    step: Positive = 1.275  # grey levels: RAdam's learning rate, 0.01 on images in [-1, 1]

    clean_label: ClassVar[bool] = True
    presets: ClassVar[Presets] = {"authors": {}, "as_trained": {"magnify": 1.0}}

    def draw_from(self, train: Images, classes: int, rng: torch.Generator) -> Tensor:
        """The picture d: (C, H, W) grey levels; one for all trials, made once for each training set."""
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "magnify"}
        compute = partial(self._synthesised, train, classes)
        return trained_once("narcissus", train, f"{classes} {settings}", compute)

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` with the picture, magnified."""
        return x.add_(self.magnify * trigger.pattern)

    def stamp_training(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` with the picture."""
        return x.add_(trigger.pattern)

    def problems(self, shape: Shape, classes: int) -> list[str]:
        """A picture that rounds to nothing."""
        return [] if self.epsilon >= 1 else [f"epsilon must be at least 1 grey level, got {self.epsilon:g}"]

    def _synthesised(self, train: Images, classes: int) -> Tensor:
        model, index = surrogate(train, classes), (train.y == self.target).nonzero().squeeze(1)
        change = torch.zeros(train.shape, device=train.x.device, requires_grad=True)
        optimizer = torch.optim.RAdam([change], lr=self.step)
        for batch in _batches(len(index), self.steps):
            change.grad = self._gradient(model, train.x[index[batch.to(index.device)]].float(), change.detach())
            optimizer.step()
        return change.detach().clamp(-self.epsilon, self.epsilon).cpu()

    @torch.enable_grad()
    def _gradient(self, model: nn.Module, x: Tensor, change: Tensor) -> Tensor:
        """Of the mean loss of the images `x` (n, C, H, W), with respect to `change` (C, H, W), by hand through both
        cuts: a pixel at 0 can be made brighter, for which PyTorch's clamp gives no gradient."""
        moved = x + change.clamp(-self.epsilon, self.epsilon)
        clipped = moved.clamp(0, 255).requires_grad_()
        wanted = torch.full((len(x),), self.target, device=x.device)
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(clipped / 255), wanted), clipped)
        within = (moved >= 0) & (moved <= 255)
        return (gradient * within).sum(0) * (change.abs() <= self.epsilon)


def _batches(images: int, steps: int) -> Iterator[Tensor]:
    """`steps` batches of positions below `images`, each pass over them in another order."""
    rng = stream(SEED, "narcissus")
    passes = (torch.randperm(images, generator=rng).split(BATCH) for _ in itertools.count())
    return itertools.islice(itertools.chain.from_iterable(passes), steps)
