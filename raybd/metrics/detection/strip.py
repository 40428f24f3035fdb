"""STRIP: what stays the same class whatever it is blended with carries a trigger.

Gao, Xu, Wang, Chen, Ranasinghe and Nepal, "STRIP: A Defence Against Trojan Attacks on Deep Neural Networks",
ACSAC 2019 (arXiv:1902.06531).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge
from torch import Tensor, nn

from raybd.metrics.detection.inputs import InputDetector
from raybd.metrics.detection.roc import Values
from raybd.metrics.stealth.detectors import strip_entropy
from raybd.metrics.subset import random_images
from raybd.types import MetricContext


@dataclass(frozen=True, kw_only=True)
class Strip(InputDetector):
    """The score is minus the mean entropy over blends with clean images.

    The blends are validation images where some are set aside, else training images before they were poisoned.
    """

    blends: Annotated[int, Ge(1)] = 32  # published: 100

    name: ClassVar[str] = "strip"

    def scores(self, model: nn.Module, x: Tensor, rows: list[int], context: MetricContext) -> Values:
        """Minus the entropy (nats) of each image."""
        if not len(x):
            return np.zeros(0)
        others = random_images(context.clean_images, self.blends, context.seed, "strip", "blends").x.float() / 255
        scores: Values = -strip_entropy(model, x, others).double().cpu().numpy()
        return scores
