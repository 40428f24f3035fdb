"""Sampling plans of smoothness: points x variants x sigmas x draws forward passes."""

from dataclasses import dataclass

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


GRID = (0.05, 0.1, 0.25, 0.5)
PLANS = {
    "cheap": SamplingPlan(200, (0.1, 0.5), (32, 64), (CLEAN, TRIGGERED)),
    "standard": SamplingPlan(
        500, GRID, (256,), (CLEAN, TRIGGERED, *PATTERNS, TWIN_CLEAN, TWIN_TRIGGERED, TARGET_CLASS)
    ),
    "exhaustive": SamplingPlan(1000, GRID, (1000,), VARIANTS),
}
