"""The signature of a backdoor: what the trigger takes from I(X; T + s Z), less what it takes in the clean twin.

With D = I(images with the trigger) - I(the same images without), the signature is D(network) - D(twin), both at one s
and on the same images, with the same noise, so that its error is that of differences image by image. The twin must be
shown the trigger too: one that covers the image costs information in any network, and says nothing of a backdoor.
Below 0 the network drops more of the image where it sees the trigger than one that was never taught to heed it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scipy.special import ndtri
from torch import Tensor

from raybd.metrics.information.bounds import standard_error
from raybd.metrics.information.resolution import Resolved, read_at
from raybd.utils.statistics import t_quantile

SURE = 2.0  # errors beyond which a sign is one
QUANTILE = 0.975  # of the normal distribution, which two standard errors stand for
Curves = Mapping[str, Resolved]  # of one network in one kind of noise, by group


@dataclass(frozen=True)
class Difference:
    """D(network) - D(twin) of one pair of groups, in nats."""

    value: float
    error: float  # standard error over the images


@dataclass(frozen=True)
class Signature:
    """The difference of the backdoor's trigger, read at s, and those of triggers that hold no backdoor."""

    own: Difference
    s: float
    null: tuple[Difference, ...] = ()

    @property
    def error(self) -> float:
        """Over the images and over what holds no backdoor: the larger; two of it are a 95 % interval.

        Networks differ by more than the chance of the images: by the chance of training, which only pairs without a
        backdoor show. How few they are is made up for by Student's t.
        """
        return _error(self.own, self.null)

    @property
    def sign(self) -> int:
        """-1 or 1 where the difference is more than `SURE` errors from 0, else 0."""
        return int(math.copysign(1, self.own.value)) if abs(self.own.value) > SURE * self.error else 0

    def metrics(self, name: str) -> dict[str, float]:
        """The difference under its name; /error over the images, /error_total as above, /s, and of the null its size.

        /null is the root mean square of what holds no backdoor, /null/ratio the mean of each over its error, to which
        that of the signature compares.
        """
        found = {name: self.own.value, f"{name}/error": self.own.error, f"{name}/s": self.s, f"{name}/saturated": 0.0}
        if len(self.null) < 2:
            return found
        others = [self.null[:k] + self.null[k + 1 :] for k in range(len(self.null))]
        ratios = [ratio(one.value, _error(one, rest)) for one, rest in zip(self.null, others, strict=True)]
        found |= {f"{name}/null": _size(self.null), f"{name}/null/ratio": sum(ratios) / len(ratios)}
        return found | {f"{name}/error_total": self.error}


def signature(network: Curves, twin: Curves, triggered: str, plain: str) -> Signature | None:
    """The signature of the groups `triggered` and `plain`, as yet without its null.

    Read at the smallest s at which all four curves can be told (`read_at`); None where there is none.
    """
    s = read_at([curves[group] for curves in (network, twin) for group in (triggered, plain)])
    return None if s is None else Signature(difference(network, twin, triggered, plain, s), s)


def difference(network: Curves, twin: Curves, triggered: str, plain: str, s: float) -> Difference:
    """D(network) - D(twin) of two groups of the same images, at an s that all four curves hold."""
    change = _change(network, triggered, plain, s) - _change(twin, triggered, plain, s)
    return Difference(float(change.mean()), float(standard_error(change)))


def direction(own: Signature | None, isotropic: Signature | None) -> int:
    """-1: the backdoor keeps less of the image, 1: more; 0: none is claimed.

    None is claimed where the interval of `own` holds 0, where either cannot be told, and where the two disagree in
    sign by more than their errors: whose noise is added would decide.
    """
    if own is None or isotropic is None or own.sign == -isotropic.sign:
        return 0
    return own.sign


def ratio(value: float, error: float) -> float:
    """Size of `value` over its error; 0 for a value that is exactly 0, as that of a network and its copy is."""
    return abs(value) / error if value else 0.0


def _change(curves: Curves, triggered: str, plain: str, s: float) -> Tensor:
    """D of each image, (N,)."""
    return curves[triggered].at(s) - curves[plain].at(s)


def _error(one: Difference, null: tuple[Difference, ...]) -> float:
    if not null:
        return one.error
    return max(one.error, _size(null) * t_quantile(QUANTILE, len(null)) / float(ndtri(QUANTILE)))


def _size(differences: tuple[Difference, ...]) -> float:
    """Root mean square."""
    return math.sqrt(sum(one.value**2 for one in differences) / len(differences))
