"""Inversion of triggers: for each class the smallest patch that sends all images there, and which is an outlier.

Wang, Yao, Shan, Li, Viswanath, Zheng and Zhao, "Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural
Networks", IEEE S&P 2019, eq. 2 to 4.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from raybd.models.batch_size import batch_size
from raybd.types import Images

Values = NDArray[np.float64]
MAD_TO_DEVIATION = 1.4826  # makes the median absolute deviation a normal law's standard deviation
PATIENCE = 10  # steps above, or below, the wanted success after which the weight of the mask's size changes
FACTOR = 1.5


@dataclass(frozen=True, kw_only=True)
class InversionSettings:
    """Settings of an inversion."""

    steps: int = 200
    batch_size: int = 32
    learning_rate: float = 0.1  # of Adam
    size_weight: float = 1e-3  # lambda at the start; it follows the success of the trigger
    success: float = 0.99  # of the inverted trigger, wanted


class TriggerInversion:
    """The optimisation of K triggers: masks (K, 1, H, W) and patterns (K, C, H, W), sigmoids of parameters."""

    def __init__(
        self,
        model: nn.Module,
        shape: tuple[int, int, int],
        classes: int,
        settings: InversionSettings,
        rng: torch.Generator,
        device: torch.device,
    ) -> None:
        self.model, self.settings, self.classes = model, settings, classes
        draws = [torch.randn(classes, c, *shape[1:], generator=rng) for c in (1, shape[0])]
        self.mask, self.pattern = (draw.to(device).requires_grad_() for draw in draws)
        self.optimizer = torch.optim.Adam([self.mask, self.pattern], lr=settings.learning_rate, betas=(0.5, 0.9))
        self.weight = torch.full((classes,), settings.size_weight, device=device)
        self.best = torch.full((classes,), math.inf, device=device)
        self.smallest = [self.mask.detach().sigmoid(), self.pattern.detach().sigmoid()]  # with the best sizes
        self.streak = torch.zeros(classes, device=device)  # steps in a row above (+) or below (-) the wanted success

    def step(self, x: Tensor) -> None:
        """One step of Adam on the images `x` (B, C, H, W), for every class; as many at a time as the memory holds."""
        size = batch_size(self.model, x, self.classes * len(x), gradients=True)
        shown = [leaf.detach().sigmoid() for leaf in (self.mask, self.pattern)]
        success = torch.zeros(self.classes, device=x.device)
        self.optimizer.zero_grad()
        for some in torch.arange(self.classes, device=x.device).split(max(1, size // len(x))):
            for part in x.split(size):
                success[some] += self._backward(part, some, len(part) / len(x))
        self.optimizer.step()
        with torch.no_grad():
            self._adapt(success, shown)

    def _backward(self, x: Tensor, classes: Tensor, share: float) -> Tensor:
        """Add the gradients of the triggers of `classes` (k,) on the images `x`, a `share` of a step's; their success
        (k,) times that share."""
        mask = self.mask[classes].sigmoid()
        logits = self.model(apply_triggers(x, mask, self.pattern[classes].sigmoid()).flatten(0, 1))
        wanted = classes.repeat_interleave(len(x))
        losses = F.cross_entropy(logits, wanted, reduction="none").view(len(classes), -1).mean(1)
        # the classes' triggers do not meet: one sum serves all
        loss = (losses + self.weight[classes] * mask.flatten(1).sum(1)).sum() * share
        leaves = (self.mask, self.pattern)
        for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
            leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
        success: Tensor = (logits.argmax(1) == wanted).view(len(classes), -1).float().mean(1) * share
        return success

    def sizes(self) -> Values:
        """(K,) float64 L1 norms of the masks."""
        last = self.mask.detach().sigmoid().flatten(1).sum(1)
        return torch.where(self.best.isfinite(), self.best, last).double().cpu().numpy()

    def triggers(self) -> tuple[Tensor, Tensor]:
        """Masks (K, 1, H, W) and patterns (K, C, H, W), those of `sizes`."""
        mask, pattern = self.smallest
        return mask, pattern

    def _adapt(self, success: Tensor, shown: list[Tensor]) -> None:
        """Keep the smallest mask that works, of those `shown` to the network; weigh size more where triggers work, and
        less where they do not."""
        works, size = success >= self.settings.success, shown[0].flatten(1).sum(1)
        better = works & (size < self.best) | self.best.isinf()  # where none has worked yet, the present one
        for kept, now in zip(self.smallest, shown, strict=True):
            kept[better] = now[better]
        self.best = torch.where(works & (size < self.best), size, self.best)
        self.streak = torch.where(works, self.streak.clamp_min(0) + 1, self.streak.clamp_max(0) - 1)
        self.weight = torch.where(self.streak >= PATIENCE, self.weight * FACTOR, self.weight)
        self.weight = torch.where(self.streak <= -PATIENCE, self.weight / FACTOR**1.5, self.weight)
        self.streak = torch.where(self.streak.abs() >= PATIENCE, 0.0, self.streak)


def invert_triggers(
    model: nn.Module,
    images: Images,
    classes: int,
    settings: InversionSettings,
    rng: torch.Generator,
    heartbeat: Callable[[], None] = lambda: None,
) -> TriggerInversion:
    """The triggers of all classes as one run finds them on `images`, from a random start."""
    search = TriggerInversion(model, images.shape, classes, settings, rng, images.x.device)
    for _ in range(settings.steps):
        index = torch.randint(len(images), (settings.batch_size,), generator=rng).to(images.x.device)
        search.step(images.x[index].float() / 255)
        heartbeat()
    return search


def apply_triggers(x: Tensor, mask: Tensor, pattern: Tensor) -> Tensor:
    """(1 - m) x + m p, eq. 2: images (B, C, H, W) with each of K masks (K, 1, H, W) and patterns (K, C, H, W)."""
    return (1 - mask[:, None]) * x[None] + (mask * pattern)[:, None]


def anomaly_index(sizes: Values) -> Values:
    """(K,) (median - size) / (1.4826 MAD): above 0 where a mask is smaller than the median; nan where MAD is 0.

    The paper's anomaly index is the absolute value, and only small masks count.
    """
    centre = np.median(sizes)
    deviation = MAD_TO_DEVIATION * np.median(np.abs(sizes - centre))
    return (centre - sizes) / deviation if deviation > 0 else np.full_like(sizes, np.nan)
