"""I(S;T), S being the label of the image: from the scores of a critic, with the image's own draws left out.

Of N images of a group, S is known for all and T = t_i is a draw of image i. With f_ij = log p(t_i | image j) + const,

    q(s | t_i) ~ pi_s mean over images j != i of label s of exp(f_ij / tau),

mixed with the frequencies pi at weight 1 / N, is a guess of s from the other images alone; log q(s_i | t_i) - log pi
(s_i) is its gain in nats, and E log q(S | T) + H(S) <= I(S;T) for any guess (Barber and Agakov 2003). With the draws of
image i in its own label's mixture T would tell the image, and through it any label, random ones too.
"""

import math

import torch
from torch import Tensor

from raybd.metrics.information.bounds import MIEstimate, standard_error
from raybd.seeds import stream

TEMPERATURES = (*(2.0**k for k in range(8)), math.inf)  # at infinity a guess is pi, its gain 0
FOLDS = 8  # of the images: the temperature of each is chosen on the others
PERMUTATIONS = 10


def source_information(scores: Tensor, labels: Tensor, seed: int) -> MIEstimate | None:
    """I(S;T) in nats of one group from scores f (E, N, N) of E draws and its labels (N,); None of a single label.

    `scores` are those of `plug_in_scores`: query i along the last axis but one, image j along the last. Low, never
    high in expectation, for the guess of image i and its temperature come from other images; below 0 by chance where
    there is nothing. `ceiling` is H(S), the error over images, `permuted` the mean over `PERMUTATIONS` orders of the
    labels, in which nothing but chance is left. `seed` decides folds and orders.
    """
    _, coded, counts = labels.unique(return_inverse=True, return_counts=True)
    if len(counts) < 2:
        return None
    rng = stream(seed, "source information")
    n = len(labels)
    fold = (torch.randperm(n, generator=rng) % FOLDS).to(labels.device)
    gains = label_gains(scores, coded, fold)
    orders = [torch.randperm(n, generator=rng).to(labels.device) for _ in range(PERMUTATIONS)]
    permuted = torch.stack([label_gains(scores, coded[order], fold).mean() for order in orders]).mean()
    frequency = counts.double() / n
    entropy = -float(frequency @ frequency.log())
    return MIEstimate(
        value=float(gains.mean()),
        lower=float(gains.mean()),
        upper=entropy,
        error=float(standard_error(gains)),
        samples=n,
        ceiling=entropy,
        permuted=float(permuted),
    )


def label_gains(scores: Tensor, coded: Tensor, fold: Tensor) -> Tensor:
    """log q(s_i | t_i) - log pi(s_i) of each image (N,), the mean over its draws, at its fold's temperature.

    `scores` (E, N, N), `coded` (N,) labels 0, 1, ..., `fold` (N,).
    """
    at_all = torch.stack([_gains_at(scores.double(), coded, tau) for tau in TEMPERATURES])
    others = torch.stack([at_all[:, fold != k].mean(1) for k in range(FOLDS)])
    return at_all.gather(0, others.argmax(1)[fold][None])[0]


def _gains_at(scores: Tensor, coded: Tensor, tau: float) -> Tensor:
    """The gains (N,) at one temperature; a label that no other image has is guessed as the mean over all labels."""
    n, classes = len(coded), int(coded.max()) + 1
    apart = (scores / tau).masked_fill(torch.eye(n, dtype=torch.bool, device=scores.device), -torch.inf)
    weights = (apart - apart.amax(-1, keepdim=True)).exp()
    one_hot = torch.nn.functional.one_hot(coded, classes).double()
    counts = one_hot.sum(0) - one_hot  # (N, classes): images of each label but image i itself
    mean = torch.where(counts > 0, weights @ one_hot / counts.clamp(min=1), weights.sum(-1, keepdim=True) / (n - 1))
    prior = one_hot.mean(0)
    guess = prior * mean / (prior * mean).sum(-1, keepdim=True)
    mixed = (1 - 1 / n) * guess + prior / n
    own = mixed.gather(-1, coded[None, :, None].expand(len(scores), n, 1))[..., 0]
    return (own / prior[coded]).log().mean(0)
