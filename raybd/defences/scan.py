"""SCAn: a class that two Gaussians explain far better than one, as against the other classes, holds poison.

Tang et al., "Demon in the Variant: Statistical Analysis of DNNs for Robust Backdoor Contamination Detection", USENIX
Security 2021 (arXiv:1908.00686), section 4: features are r = mu_class + e with e ~ N(0, S), S the same for all classes
and known from clean images. For the n_t features R_t of class t,

    J_t = 2 ln P(R_t | two means) / P(R_t | one mean)
        = sum_i (r_i - mu_t)' S^-1 (r_i - mu_t) - min_j (r_i - mu_j)' S^-1 (r_i - mu_j),
    J*_t = (J_t - median J) / (1.4826 MAD J),    contaminated where J*_t > e^2.

The paper first shifts and scales every J_t alike, by (J - k) / sqrt(2k), which J* does not see, and takes |J*|; here a
class that is more of one piece than the others is none. Its EM estimate of S, for classes of equal size, is the
scatter within classes over N - K (that of a random-effects model), which is taken. The hard assignment is 2-means in
the coordinates S^-1/2 r. Which of the two groups is poison is told by the clean images: that whose mean lies farther
from theirs.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raybd.defences.base import Access, TrainingContext
from raybd.defences.filtering import Filter, FilterResult, check_trusted, features_of, two_means
from raybd.models import Classifier
from raybd.training import Epoch
from raybd.utils.constraints import Positive

THRESHOLD = math.exp(2)
NORMAL = 1.4826  # the deviation of a normal law over its MAD


@dataclass(frozen=True, kw_only=True)
class Scan(Filter):
    """Removes the group that is strange of each class that is a mixture."""

    ridge: Positive = 0.01  # times the mean variance of S, added to its diagonal
    access: ClassVar[Access] = "clean images"

    def detect(self, context: TrainingContext, network: Classifier) -> FilterResult:
        """J* of every class, and the groups.

        The suspicion of an image is ln(1 + J*), 0 below the median, with a minus in the group that is not strange.
        """
        assert context.trusted is not None
        known, y = context.trusted.y.cpu(), context.images.y.cpu()
        clean = features_of(network, context.trusted, context)
        to_sphere = inverse_root(within(clean, known, context.classes), self.ridge)
        z, clean = features_of(network, context.images, context) @ to_sphere, clean @ to_sphere
        strange = torch.zeros(len(y), dtype=torch.bool)
        gains = torch.zeros(context.classes, dtype=torch.float64)
        for label in range(context.classes):
            mine = y == label
            strange[mine], gains[label] = split(z[mine], clean[known == label].mean(0))
        scores = deviations(gains)
        suspicion = scores.clamp_min(0).log1p()[y]
        return FilterResult(torch.where(strange, suspicion, -suspicion), strange & (scores > THRESHOLD)[y])

    def train(self, context: TrainingContext) -> Iterator[Epoch]:
        """As every filter. Raises InputError where there are too few clean images."""
        check_trusted("scan", context)
        return super().train(context)

    def problems(self, shape: tuple[int, int, int], classes: int) -> list[str]:
        """Fewer than three classes, of which none can stand out."""
        return [] if classes > 2 else [f"it compares classes and needs 3 or more, got {classes}"]


def within(features: Tensor, y: Tensor, classes: int) -> Tensor:
    """S (D, D): the scatter of `features` (N, D) about the means of their classes, over N - K
    (or 1, where that is less); every class occurs."""
    ones = torch.nn.functional.one_hot(y, classes).to(features.dtype)
    rest = features - (ones.T @ features / ones.sum(0)[:, None])[y]
    return rest.T @ rest / max(1, len(y) - classes)


def inverse_root(covariance: Tensor, ridge: float) -> Tensor:
    """(S + ridge tr(S) / D I)^-1/2 (D, D), symmetric. Features without any variance are left at the unit matrix."""
    size = len(covariance)
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp_min(0) + ridge * covariance.trace() / size
    if not bool(values.max() > 0):
        return torch.eye(size, dtype=covariance.dtype)
    root: Tensor = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    return root


def split(z: Tensor, clean: Tensor) -> tuple[Tensor, float]:
    """The strange group of a class, as a mask (n,), and J_t, of `z` (n, D) = S^-1/2 r and the clean mean (D,) there."""
    if len(z) < 2:
        return torch.zeros(len(z), dtype=torch.bool), 0.0
    group, inertia = two_means(z)
    gain = float((z - z.mean(0)).square().sum()) - inertia
    if group.any() and (z[group].mean(0) - clean).norm() < (z[~group].mean(0) - clean).norm():
        group = ~group
    return group, gain


def deviations(gains: Tensor) -> Tensor:
    """J* (K,) of J (K,): (J - median) / (1.4826 MAD), 0 where nothing deviates. The median of an even number is the
    mean of the two in the middle."""
    above = gains - gains.quantile(0.5)
    spread = above.abs().quantile(0.5)
    return above / (NORMAL * spread).clamp_min(torch.finfo(gains.dtype).tiny)
