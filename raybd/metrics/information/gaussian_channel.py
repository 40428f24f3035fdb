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
    """I(T;Y) in nats of each group from `whitened_channel`'s two (G, N, K, C): N images, K draws of each.

    Lower: InfoNCE with the true conditional over all N K draws. In expectation it is I of the draws at hand, and I is
    concave in the law of T: so it bounds I from below for the law of which the images are a sample, and for the
    images themselves. Upper: the smaller of leave-one-image-out and of `gaussian_bound`, both for the law of which
    the images are a sample, which holds more than the images themselves. Both errors are over images.
    """
    gaussian, gaussian_error = (part.tolist() for part in gaussian_bound(sent))
    found = []
    for group, (s, z) in enumerate(zip(sent, received, strict=True)):  # one at a time: N K squared is large
        scores = z.flatten(0, 1) @ s.flatten(0, 1).T - s.flatten(0, 1).square().sum(-1) / 2
        lower = _by_image(infonce(scores), s.shape[1])
        upper = min(_by_image(leave_one_out(scores, s.shape[1]), s.shape[1]), (gaussian[group], gaussian_error[group]))
        found.append(between(lower, upper, len(s)))
    return found


def _by_image(summands: Tensor, per_image: int) -> tuple[float, float]:
    """The mean of `summands` (N K,), K in a row of an image, and its standard error over images."""
    means = summands.unflatten(0, (-1, per_image)).mean(1)
    return float(means.mean()), float(standard_error(means))


def between(lower: tuple[float, float], upper: tuple[float, float], images: int) -> MIEstimate:
    """The estimate between two bounds, each with its standard error, from so many images.

    The middle is a value where the bounds are no further apart than their errors together; elsewhere there is none.
    """
    errors = lower[1] + upper[1]
    near = upper[0] - lower[0] <= errors
    return MIEstimate(
        value=(lower[0] + upper[0]) / 2 if near else math.nan,
        lower=lower[0],
        upper=upper[0],
        error=(errors + max(upper[0] - lower[0], 0)) / 2 if near else math.nan,
        samples=images,
        ceiling=math.log(images),
        lower_error=lower[1],
        upper_error=upper[1],
    )


def gaussian_bound(sent: Tensor) -> tuple[Tensor, Tensor]:
    """1/2 log det(1 + Cov(s)) of `sent` (G, N, K, C) and its standard error, twice (G,), in nats.

    No input of that covariance gets more through the channel. The k-th draws of all images are N independent ones of
    s, draws of one image are not: so the log determinant is that of a covariance with N - 1 degrees of freedom, the
    mean over k. It is low; what it would lack were s Gaussian and large is added back (Wishart). Infinite where N - 1
    is less than C. The error is that of a jackknife over images.
    """
    n, size = sent.shape[1], sent.shape[3]
    s = sent.double().transpose(1, 2)
    apart = s - s.mean(2, keepdim=True)
    covariance = apart.transpose(2, 3) @ apart / (n - 1)
    whole = torch.logdet(torch.eye(size, dtype=s.dtype, device=s.device) + covariance).mean(1)
    spread = _without_each_image(apart, covariance).mean(1).std(1, correction=0)
    return (whole + _log_det_bias(n - 1, size)) / 2, math.sqrt(n - 1) * spread / 2


def _without_each_image(apart: Tensor, covariance: Tensor) -> Tensor:
    """log det(1 + Cov) without image i, (G, K, N), from centred draws (G, K, N, C) and their covariance (G, K, C, C).

    Without x_i the covariance is ((n - 1) Cov - n / (n - 1) x_i x_i') / (n - 2), a change of rank one.
    """
    n = apart.shape[2]
    rest = torch.eye(apart.shape[3], dtype=apart.dtype, device=apart.device) + (n - 1) / (n - 2) * covariance
    length = (apart * torch.linalg.solve(rest, apart.transpose(2, 3)).transpose(2, 3)).sum(-1)
    return torch.logdet(rest)[:, :, None] + torch.log1p(-n / ((n - 1) * (n - 2)) * length)


def _log_det_bias(freedom: int, size: int) -> float:
    """By how much the mean log determinant of a Gaussian's sample covariance (size, size) is below the true one."""
    if freedom < size:
        return math.inf
    halves = (freedom - torch.arange(size, dtype=torch.float64)) / 2
    return size * math.log(freedom / 2) - float(torch.digamma(halves).sum())
