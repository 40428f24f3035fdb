"""How uneven the losses of training images are (Li et al., "Anti-Backdoor Learning", NeurIPS 2021)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

TAIL = 0.05  # of the images, those of the smallest or largest losses


def loss_spread(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Cross-entropies in nats of images (N, K) under their given labels (N,): how uneven they are.

    loss/deviation: over images. loss/least_class: the least mean of a class less the mean over classes.
    loss/lowest_class, loss/highest_class: of the `TAIL` of images with the smallest (largest) losses, the share that
    one class has, less its share of all images; the largest of the classes, in [0, 1).
    """
    losses = F.cross_entropy(logits.double(), labels, reduction="none")
    means = torch.stack([losses[labels == label].mean() for label in labels.unique()])
    order, number = losses.argsort(stable=True), math.ceil(TAIL * len(losses))
    return {
        "loss/deviation": float(losses.std(correction=0)),
        "loss/least_class": float(means.min() - means.mean()),
        "loss/lowest_class": _concentration(labels[order[:number]], labels),
        "loss/highest_class": _concentration(labels[order[-number:]], labels),
    }


def _concentration(some: Tensor, labels: Tensor) -> float:
    """The largest of the classes' shares of `some` (n,) less their shares of `labels` (N,)."""
    number = int(labels.max()) + 1
    shares = [torch.bincount(part, minlength=number).double() / len(part) for part in (some, labels)]
    return float((shares[0] - shares[1]).max())
