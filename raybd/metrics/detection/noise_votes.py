"""Smoothness as a detector: the classes that a network gives noisy copies of a triggered image hardly differ.

The entropy of the votes is that of the metric `smoothness` (raybd/metrics/smoothing); here it is a score.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge
from torch import Tensor, nn

from raybd.metrics.detection.inputs import InputDetector
from raybd.metrics.detection.roc import Values
from raybd.metrics.smoothing.entropy import plug_in_entropy
from raybd.metrics.smoothing.votes import count_votes
from raybd.types import MetricContext
from raybd.utils.constraints import Positive


@dataclass(frozen=True, kw_only=True)
class NoiseVotes(InputDetector):
    """The score is minus the entropy (nats) of the classes of x + N(0, sigma^2), noise in pixels of [0, 1]."""

    sigma: Positive = 0.5
    draws: Annotated[int, Ge(1)] = 64

    name: ClassVar[str] = "noise_votes"

    def scores(self, model: nn.Module, x: Tensor, rows: list[int], context: MetricContext) -> Values:
        """Minus the plug-in entropy of each image's votes."""
        if not len(x):
            return np.zeros(0)
        votes = count_votes(
            model, x[None], rows, (self.sigma,), (self.draws,), context.seed, heartbeat=context.heartbeat
        ).votes
        return -plug_in_entropy(votes[0, 0].long().numpy())
