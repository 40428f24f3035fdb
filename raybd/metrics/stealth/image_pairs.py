"""Test images before and after the trigger, on which stealth is measured; drawn by the trial's seed."""

from dataclasses import dataclass

from torch import Tensor

from raybd.metrics.subset import random_subset
from raybd.types import POISON, MetricContext

MAX_PAIRS = 500  # test images: the error of a mean over these is far below what sets triggers apart


@dataclass(frozen=True)
class ImagePairs:
    """N test images that the attack success rate counts, before and after the trigger."""

    clean: Tensor  # (N, C, H, W) float32 in [0, 1], of 8 bits
    triggered: Tensor
    wanted: Tensor  # (N,) int64: the class that the attacker wants
    true: Tensor  # (N,) int64
    clean_logits: Tensor  # (N, K)
    triggered_logits: Tensor


def sample_pairs(context: MetricContext, most: int = MAX_PAIRS) -> ImagePairs:
    """At most `most` of the images; those of a smaller number are among those of a larger one."""
    test, eligible = context.data.test, context.measured.nonzero().flatten()
    rows = random_subset(eligible, most, context.seed, "stealth")
    same = rows % len(test)  # an attack of several members has every test image once for each
    return ImagePairs(
        clean=test.x[same].float() / 255,
        triggered=context.triggered.x[rows].float() / 255,
        wanted=context.triggered.y[rows],
        true=test.y[same],
        clean_logits=context.clean_logits[same],
        triggered_logits=context.triggered_logits[rows],
    )


def poison_mask(context: MetricContext) -> Tensor:
    """Mask (N,) of the training images that were poisoned."""
    return context.poisoned.roles == POISON
