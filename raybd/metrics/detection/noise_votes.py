"""Smoothness as a detector: the classes that a network gives noisy copies of a triggered image hardly differ.

The entropy of the votes is that of the metric `smoothness` (raybd/metrics/smoothing); here it is a score.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from raybd.metrics.detection.curve import Values
from raybd.metrics.detection.inputs import InputDetector, empty
from raybd.metrics.smoothing.entropy import plug_in
from raybd.metrics.smoothing.votes import tally
from raybd.types import Data, MetricContext


@dataclass(frozen=True, kw_only=True)
class NoiseVotes(InputDetector):
    """The score is minus the entropy (nats) of the classes of x + N(0, sigma^2), noise in pixels of [0, 1]."""

    sigma: float = 0.5
    draws: int = 64

    title: ClassVar[str] = "noise_votes"

    def scores(self, model: nn.Module, x: Tensor, rows: list[int], context: MetricContext) -> Values:
        """Minus the plug-in entropy of each image's votes."""
        if not len(x):
            return empty()
        votes = tally(
            model, x[None], rows, (self.sigma,), (self.draws,), context.seed, heartbeat=context.heartbeat
        ).votes
        return -plug_in(votes[0, 0].long().numpy())

    def problems(self, data: Data, noise: float) -> list[str]:
        """A sigma or a number of draws or points that makes no sense."""
        found = super().problems(data, noise)
        good = 0 < self.sigma < math.inf
        found += [] if good else [f"noise_votes: sigma must be above 0 and finite, got {self.sigma:g}"]
        return found if self.draws > 0 else [*found, f"noise_votes: draws must be 1 or more, got {self.draws}"]
