"""I(T;Y_pred) without a trained critic: the channel from T to the logits is Gaussian and known exactly.

Y = W (T + g e) + b with e ~ N(0, 1), so p(y | t) = N(W t + b, g^2 W W'). With A W W' A' g^2 = 1, z = A (y - b) and
s = A W t, log p(y | t) is -|z - s|^2 / 2 up to a constant. T | X is a continuous law, so the information has no
entropy for a bound; it may well be above log(number of classes).
"""

import math

import torch
from torch import Tensor

from raybd.metrics.information.bounds import MIEstimate, infonce, leave_one_out, standard_error
from raybd.metrics.information.plug_in_estimator import whitening


def whitened_channel(features: Tensor, logits: Tensor, head: torch.nn.Linear, noise: float) -> tuple[Tensor, Tensor]:
    """The channel's input s and output z = s + N(0, 1), (..., K): for T (..., D) and Y (..., C) of the same pass.

    K is the rank of the head's weight matrix: directions with eigenvalues of W W' below 1e-6 of the largest carry
    nothing and are dropped.
    """
    weight = head.weight.detach()
    axes = whitening(noise**2 * weight @ weight.T).to(weight.dtype)
    bias = 0.0 if head.bias is None else head.bias.detach()
    return features @ (axes @ weight).T, (logits - bias) @ axes.T


def channel_estimates(sent: Tensor, received: Tensor) -> list[MIEstimate]:
    """I(T;Y) of each group from `whitened_channel`'s two (G, N, K, C): N images, K draws of each.

    Lower: InfoNCE with the true conditional, at most log(N K); it is I of the draws at hand, and I is concave in the
    law of T, so draws of one image may stand together. Upper: the smaller of leave-one-image-out and of the Gaussian
    maximum-entropy bound.
    """
    gaussian = gaussian_bound(sent.flatten(1, 2))
    found = []
    for s, z, bound in zip(sent, received, gaussian.tolist(), strict=True):  # one at a time: N K squared is large
        scores = z.flatten(0, 1) @ s.flatten(0, 1).T - s.flatten(0, 1).square().sum(-1) / 2
        found.append(_estimate(infonce(scores), leave_one_out(scores, s.shape[1]), bound, s.shape[1]))
    return found


def gaussian_bound(sent: Tensor) -> Tensor:
    """1/2 log det(1 + Cov(s)) of `sent` (G, N, K), (G,): no input of that covariance gets more through the channel.

    The log determinant of a sample covariance is low; what it would lack were z Gaussian is added back (Wishart).
    """
    n, size = sent.shape[1:]
    apart = sent - sent.mean(1, keepdim=True)
    covariance = apart.transpose(1, 2) @ apart / (n - 1)
    identity = torch.eye(size, dtype=sent.dtype, device=sent.device)
    return (torch.logdet(identity + covariance) + _log_det_bias(n - 1, size)) / 2


def _log_det_bias(freedom: int, size: int) -> float:
    """By how much the mean log determinant of a Gaussian's sample covariance (size, size) is below the true one."""
    if freedom < size:
        return math.inf
    halves = (freedom - torch.arange(size, dtype=torch.float64)) / 2
    return size * math.log(freedom / 2) - float(torch.digamma(halves).sum())


def _estimate(lower: Tensor, upper: Tensor, gaussian: float, per_image: int) -> MIEstimate:
    """The middle of the bounds is nearer to the truth than either, wherever they part."""
    by_image = lower.unflatten(0, (-1, per_image)).mean(1)
    least, most = float(lower.mean()), min(float(upper.mean()), gaussian)
    return MIEstimate(
        value=(least + most) / 2,
        lower=least,
        upper=most,
        error=float(standard_error(by_image)),
        samples=len(lower),
        ceiling=math.log(len(lower)),
    )
