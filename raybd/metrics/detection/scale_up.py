"""SCALE-UP: an image that stays in its class however much its pixels are amplified carries a trigger.

Guo, Li, Chen, Guo, Sun and Liu, "SCALE-UP: An Efficient Black-box Input-level Backdoor Detection via Analyzing Scaled
Prediction Consistency", ICLR 2023 (arXiv:2302.03251). Scales as in the authors' code.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from raybd.metrics.detection.inputs import InputDetector
from raybd.metrics.detection.roc import Values
from raybd.models.batch_size import batch_size, batched
from raybd.types import Data, MetricContext

BATCH = 512  # at most


@dataclass(frozen=True, kw_only=True)
class ScaleUp(InputDetector):
    """The score is the share of scales n at which min(n x, 1) has the class of x, pixels in [0, 1]."""

    scales: tuple[float, ...] = (3.0, 5.0, 7.0, 9.0, 11.0)

    name: ClassVar[str] = "scale_up"

    def scores(self, model: nn.Module, x: Tensor, rows: list[int], context: MetricContext) -> Values:
        """The scaled prediction consistency (N,) of each image, in [0, 1]."""
        return consistency(model, x, self.scales) if len(x) else np.zeros(0)

    def problems(self, data: Data, noise: float) -> list[str]:
        """No scales, scales of 1 or less, and what the base class finds."""
        found = [] if self.scales else ["scale_up: scales must not be empty"]
        if bad := [scale for scale in self.scales if not scale > 1]:
            found.append(f"scale_up: scales must be above 1, got {', '.join(f'{scale:g}' for scale in bad)}")
        return [*super().problems(data, noise), *found]


@torch.inference_mode()
def consistency(model: nn.Module, x: Tensor, scales: tuple[float, ...]) -> Values:
    """(N,): the share of `scales` that leave the class of each image `x` (N, C, H, W) in [0, 1] as it is."""
    size = batch_size(model, x, BATCH)
    first = batched(lambda some: model(some).argmax(1), x, size=size)
    same = [batched(lambda some, n=n: model((some * n).clamp(max=1)).argmax(1), x, size=size) == first for n in scales]
    found: Values = torch.stack(same).double().mean(0).cpu().numpy()
    return found
