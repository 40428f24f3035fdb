"""Neural Cleanse: for each class the smallest patch that sends all images there; one that is far smaller is a trigger.

Wang, Yao, Shan, Li, Viswanath, Zheng and Zhao, "Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural
Networks", IEEE S&P 2019, eq. 2 to 4.
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Interval
from torch import Tensor, nn

from raybd.errors import InputError
from raybd.metrics.base import Metric
from raybd.metrics.detection.roc import Values, roc_metrics
from raybd.models.batch_size import batch_size
from raybd.seeds import forked_rng, stream
from raybd.types import Data, MetricContext
from raybd.utils.constraints import Positive, violations

MAD_TO_DEVIATION = 1.4826  # makes the median absolute deviation a normal law's standard deviation
PATIENCE = 10  # steps above, or below, the wanted success after which the weight of the mask's size changes
FACTOR = 1.5


@dataclass(frozen=True, kw_only=True)
class NeuralCleanse(Metric):
    """Inverts a trigger for every class, all at once, in several runs from random starts.

    A class is flagged in a run when its mask is the smaller kind of outlier, by an anomaly index above the threshold;
    the network is infected where more than half of the runs say so. The classes' indices also rank the true targets.
    """

    runs: Annotated[int, Ge(1)] = 3
    steps: Annotated[int, Ge(1)] = 200
    batch_size: Annotated[int, Ge(1)] = 32
    learning_rate: Positive = 0.1  # of Adam
    size_weight: Positive = 1e-3  # lambda at the start; it follows the success of the trigger
    success: Annotated[float, Interval(gt=0, le=1)] = 0.99  # of the inverted trigger, wanted
    threshold: Positive = 2.0  # of the anomaly index

    every_probe: ClassVar[bool] = False
    needs_twin: ClassVar[bool] = True

    def measure(self, context: MetricContext) -> dict[str, float | Tensor]:
        """Metrics of the network, and "null_" those of the twin; mask sizes are kept as arrays.

        Raises:
            InputError: the trial has no clean twin.
        """
        if context.twin is None:
            raise InputError("neural_cleanse needs the clean twin, and this trial came without it")
        targets = context.triggered.y[context.measured].unique().cpu().numpy()
        found: dict[str, float | Tensor] = {}
        for prefix, model in (("", context.model), ("null_", context.twin)):
            with forked_rng(context.seed, "neural_cleanse", device=context.data.test.x.device):
                sizes = np.stack([self._mask_sizes(model, context, run) for run in range(self.runs)])
            indices = np.stack([anomaly_index(row) for row in sizes])
            numbers = infection_metrics(indices, targets, self.threshold)
            found |= {f"neural_cleanse/{prefix}{name}": value for name, value in numbers.items()}
            found[f"neural_cleanse/{prefix}sizes"] = torch.from_numpy(sizes)
        return found

    def problems(self, data: Data, noise: float) -> list[str]:
        """Settings out of range, and too few classes to tell an outlier."""
        found = [] if len(data.classes) > 2 else [f"neural_cleanse needs 3 classes, got {len(data.classes)}"]
        return found + violations(self, "neural_cleanse: ")

    def _mask_sizes(self, model: nn.Module, context: MetricContext, run: int) -> Values:
        """(K,) the size of each class's mask, the least that was seen at the wanted success, else the last."""
        return self.invert(model, context, run).sizes()

    def invert(self, model: nn.Module, context: MetricContext, run: int) -> "TriggerInversion":
        """The triggers of all classes as one run finds them."""
        pool = context.data.train if context.data.validation is None else context.data.validation
        rng = stream(context.seed, "neural_cleanse", run)
        search = TriggerInversion(model, pool.shape, len(context.data.classes), self, rng, pool.x.device)
        for _ in range(self.steps):
            index = torch.randint(len(pool), (self.batch_size,), generator=rng).to(pool.x.device)
            search.step(pool.x[index].float() / 255)
            context.heartbeat()
        return search


class TriggerInversion:
    """The optimisation of K triggers: masks (K, 1, H, W) and patterns (K, C, H, W), sigmoids of parameters."""

    def __init__(
        self,
        model: nn.Module,
        shape: tuple[int, int, int],
        classes: int,
        settings: NeuralCleanse,
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


def infection_metrics(indices: Values, targets: Values, threshold: float) -> dict[str, float]:
    """Metrics of the anomaly indices (R, K) of R runs: which classes they flag, and how right, given the `targets`.

    "index" is the median over runs of the largest index, "runs_flagged" the share of runs with an index above the
    threshold, "infected" 1 where that is more than half, "targets_found" the share of targets that more than half of
    the runs flag, "false_alarms" that of the other classes; AUROC and false positives of the median index follow.
    Runs without indices (nan) do not count; empty where no run has any.
    """
    indices = indices[~np.isnan(indices).any(1)]
    if not len(indices):
        return {}
    flagged = indices > threshold
    usual = flagged.mean(0) > 0.5
    hit = np.isin(np.arange(indices.shape[1]), targets)
    share = float(flagged.any(1).mean())
    numbers = {"index": float(np.median(indices.max(1))), "runs_flagged": share, "infected": float(share > 0.5)}
    if hit.any():
        numbers["targets_found"] = float(usual[hit].mean())
    if not hit.all():
        numbers["false_alarms"] = float(usual[~hit].mean())
    middle = np.median(indices, axis=0)
    return numbers | roc_metrics(middle[~hit], middle[hit])
