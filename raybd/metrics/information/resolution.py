"""Information at a resolution, I(X; T + s Z): what is left to compare where I(X;T) is at its ceiling of log N.

X is uniform on the N images of a group, T one noisy pass, Z ~ N(0, C) drawn apart from both. By data processing every
s gives a lower bound on I(X;T), and the curve falls in s. C is of the network's own: "own" the covariance of its noise
in T (s counts how often that is added), "iso" tr(Cov T) / D times the identity (s counts the deviation of a feature).
The critic is `plug_in_estimator`'s with the noise of T + s Z in place of that of T:

    f(x, t) = -1/2 sum_k (t_k - c_k - a_k (m_k(x) - c_k))^2 / (w_k + s^2 + a_k v_k),    a_k = lam_k / (lam_k + v_k),

along the axes of Cov(m) over the group, in units of Z: m(x) the mean of R draws of T without Z, c its mean, w_k the
variance of T's own noise, v_k = w_k / R the error of m, lam_k = max(Var m_k - v_k, 0). A mixture over the R draws is
no critic for networks: in 64 dimensions it says less than nothing until s is large.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raybd.metrics.information.plug_in_estimator import whitened_axes

GRIDS = {  # s, by the kind of Z
    "own": (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0),
    "iso": (1.0, 1.5, 2.0, 3.0),
}
WIDEST = 1.0  # nats between the two estimates above which what lies between them is no estimate
Z_DRAWS = 4  # of Z for each draw of T on which the critic is evaluated


@dataclass(frozen=True)
class Resolved:
    """Two estimates of I(X; T + s Z) of one group at each s, as their summands by image, in nats."""

    grid: tuple[float, ...]
    low: Tensor  # (S, N) of InfoNCE: a bound whatever the critic, at most log N
    loo: Tensor  # (S, N) leaving each image out: above the truth if the channel is the critic's Gaussian, else no bound

    @property
    def width(self) -> Tensor:
        """By how much the second mean exceeds the first, (S,)."""
        return self.loo.mean(1) - self.low.mean(1)

    def metrics(self, kind: str, group: str, prefix: str) -> dict[str, float]:
        """The curve: prefix/xt_KIND/s_S/GROUP/low and .../loo."""
        found: dict[str, float] = {}
        for end, values in (("low", self.low.mean(1)), ("loo", self.loo.mean(1))):
            names = [f"{prefix}/xt_{kind}/s_{s:g}/{group}/{end}" for s in self.grid]
            found |= dict(zip(names, values.tolist(), strict=True))
        return found

    def at(self, s: float) -> Tensor:
        """The summands of `low` at one s of the grid, (N,)."""
        return self.low[self.grid.index(s)]


def own_axes(draws: Tensor) -> Tensor:
    """A (K, D): in A t the network's own noise has covariance 1. From `draws` (M, R, D) of clean images.

    The axes are those along which clean images differ, each pointing to its longer tail: an invertible map of T, a new
    order of its channels above all, changes nothing of A t. Directions of next to no noise are left out.
    """
    return _oriented(whitened_axes(draws[None]), draws)


def isotropic_axes(draws: Tensor) -> Tensor:
    """A (D, D), orthogonal but for its scale: tr(Cov T) / D is 1 in A t. From `draws` (M, R, D) of clean images.

    Turns of T, a new order of its channels above all, change nothing of A t; other maps do.
    """
    means = draws.mean(1)
    apart = (means - means.mean(0)).double()
    turn = torch.linalg.eigh(apart.T @ apart)[1].T.to(draws.dtype)
    scale = draws.flatten(0, 1).var(0).mean().sqrt()
    return _oriented(turn / scale, draws)


def resolved_information(draws: Tensor, fresh: Tensor, z: Tensor, grid: tuple[float, ...]) -> Resolved:
    """I(X; T + s Z) of one group at each s of `grid`, from T in units in which Z has covariance 1.

    The critic comes from `draws` (N, R, K), R >= 2, and is evaluated on `fresh` (N, E, K) + s `z` (N, E, Q, K).
    """
    critic, axes, centre = _critic(draws)
    queries, noise = (fresh - centre) @ axes.T, z @ axes.T
    parts = [_summands((queries[:, :, None] + s * noise).flatten(1, 2), critic, s) for s in grid]
    low, loo = (torch.stack(part) for part in zip(*parts, strict=True))
    return Resolved(grid, low, loo)


def read_at(groups: Sequence[Resolved]) -> float | None:
    """The smallest s at which the two estimates of every group are within a nat; None if there is none."""
    narrow = torch.stack([group.width <= WIDEST for group in groups]).all(0)
    return next((s for s, ok in zip(groups[0].grid, narrow.tolist(), strict=True) if ok), None)


def _critic(draws: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    """a (m - c) (N, K) and w + a v (K,), the axes (K, D) that they are along, and c (D,)."""
    images, passes = draws.shape[:2]
    means = draws.mean(1)
    centre = means.mean(0)
    axes = torch.linalg.svd(means - centre, full_matrices=False)[2]  # along any other axis all images are alike
    known = (means - centre) @ axes.T
    own = ((draws - means[:, None]) @ axes.T).square().sum((0, 1)) / (images * (passes - 1))
    error = own / passes
    lam = (known.square().mean(0) - error).clamp(min=0)
    shrunk = lam / (lam + error).clamp(min=torch.finfo(lam.dtype).tiny)
    return (shrunk * known, own + shrunk * error), axes, centre


def _summands(queries: Tensor, critic: tuple[Tensor, Tensor], s: float) -> tuple[Tensor, Tensor]:
    """The summands of both estimates, (N,) each, of `queries` (N, E, K), several of each image."""
    expected, variance = critic[0], critic[1] + s**2
    scaled = expected / variance
    scores = queries.flatten(0, 1) @ scaled.T - (scaled * expected).sum(1) / 2  # (N E, N)
    n, per_image = queries.shape[:2]
    right = torch.arange(n, device=queries.device).repeat_interleave(per_image)[:, None]
    own = scores.gather(1, right)
    others = scores.scatter(1, right, -torch.inf).logsumexp(1, keepdim=True)
    low = own - torch.logaddexp(others, own) + math.log(n)
    loo = own - others + math.log(n - 1)
    return low.view(n, per_image).mean(1), loo.view(n, per_image).mean(1)


def _oriented(axes: Tensor, draws: Tensor) -> Tensor:
    """`axes` (K, D), each turned such that the clean images' means have their longer tail above."""
    along = draws.mean(1) @ axes.T
    tail = (along - along.mean(0)).pow(3).sum(0)
    return torch.where(tail < 0, -axes.T, axes.T).T
