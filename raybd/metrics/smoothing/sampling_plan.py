"""Sampling plans of smoothness: points x variants x sigmas x draws forward passes."""

import math
from dataclasses import dataclass, replace

from raybd.metrics.smoothing.entropy import bias_bound

BIAS = 0.04  # nats by which a mean entropy may be low: 32 draws at 10 classes
CLEAN, TRIGGERED, TARGET_CLASS = "clean", "triggered", "target_class"
PATTERNS = ("random_patch", "moved_patch", "random_direction")  # controls that know nothing of a network
ADVERSARIAL = ("universal", "pgd")  # found on the network itself
TWIN_CLEAN, TWIN_TRIGGERED, TWIN_UNIVERSAL = "twin_clean", "twin_triggered", "twin_universal"
TWIN = (TWIN_CLEAN, TWIN_TRIGGERED, TWIN_UNIVERSAL)  # on the clean twin, the universal one found there too
VARIANTS = (CLEAN, TRIGGERED, *PATTERNS, *ADVERSARIAL, *TWIN, TARGET_CLASS)


@dataclass(frozen=True)
class SamplingPlan:
    """Points, sigmas (pixels of [0, 1]), numbers of draws at which drawing may stop (interim looks), and variants."""

    points: int
    sigmas: tuple[float, ...]
    looks: tuple[int, ...]  # after all but the last, no more is drawn for unanimous points
    variants: tuple[str, ...]

    def for_classes(self, classes: int) -> "SamplingPlan":
        """The plan with as many draws that no mean over votes for `classes` classes is low by more than BIAS."""
        first = self.looks[0]
        enough = first * math.ceil(bias_bound(first, classes) / BIAS)
        return replace(self, looks=(max(first, enough), *(look for look in self.looks[1:] if look > enough)))


GRID = (0.05, 0.1, 0.25, 0.5)
PLANS = {
    "cheap": SamplingPlan(200, (0.1, 0.5), (32, 64), (CLEAN, TRIGGERED)),
    "standard": SamplingPlan(
        500, GRID, (256,), (CLEAN, TRIGGERED, *PATTERNS, TWIN_CLEAN, TWIN_TRIGGERED, TARGET_CLASS)
    ),
    "exhaustive": SamplingPlan(1000, GRID, (1000,), VARIANTS),
}
