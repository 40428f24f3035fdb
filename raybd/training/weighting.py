"""Loss weighting: each poisoned image's loss counts beta times, from 0 (left out) to 1 (ordinary training)."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from raybd.types import Images

LEAST = 2  # images of a batch: batch norm cannot take a lone one


@dataclass(frozen=True)
class Step:
    """One step of a training."""

    number: int
    index: Tensor  # of its images
    size: int  # of the batch that they are from


LossOf = Callable[
    [Tensor, Tensor, Step], Tensor
]  # logits of images, their indices, step -> their part of its mean loss


@dataclass(frozen=True)
class Flagged(Images):
    """Training images of which some are known to be poison: only a training weighted by beta is given these."""

    poison: Tensor  # (N,) bool


def plain(images: Images, label_smoothing: float) -> LossOf:
    """The mean cross-entropy of a batch in nats."""

    def loss_of(logits: Tensor, index: Tensor, step: Step) -> Tensor:
        if len(index) == len(step.index):
            return F.cross_entropy(logits, images.y[index], label_smoothing=label_smoothing)
        summed = F.cross_entropy(logits, images.y[index], label_smoothing=label_smoothing, reduction="sum")
        return summed / len(step.index)

    return loss_of


def weighted(images: Flagged, label_smoothing: float, beta: float) -> LossOf:
    """sum of w_i CE_i / (size (1 - p)) in nats: w is beta on poison and 1 elsewhere, p the poison's share of the set.

    The denominator is a constant and not the batch's own number of clean images, so the mean over batches is (arXiv
    2106.07214's objective) / (number of clean images); at beta = 1 it is the plain loss / (1 - p).
    """
    weights = torch.where(images.poison, beta, 1.0)
    clean = 1 - float(images.poison.double().mean())

    def loss_of(logits: Tensor, index: Tensor, step: Step) -> Tensor:
        losses = F.cross_entropy(logits, images.y[index], label_smoothing=label_smoothing, reduction="none")
        return (weights[index] * losses).sum() / (step.size * clean)

    return loss_of


def batch_means(images: Flagged, label_smoothing: float, beta: float) -> LossOf:
    """mean CE of the batch's clean images + beta * mean CE of its poison (0 if it has none), in nats.

    What the code of arXiv 2106.07214 does with networks, for comparison with its results only: at beta = 1 a poisoned
    image weighs (1 - p) / p as much as a clean one, and at beta = 0 poison still passes through batch norm.
    """

    def loss_of(logits: Tensor, index: Tensor, step: Step) -> Tensor:
        losses = F.cross_entropy(logits, images.y[index], label_smoothing=label_smoothing, reduction="none")
        poison, among = images.poison[index].to(losses.dtype), images.poison[step.index].to(losses.dtype)
        return _mean(losses, 1 - poison, 1 - among) + beta * _mean(losses, poison, among)

    return loss_of


def without_poison(steps: list[Step], images: Flagged) -> list[Step]:
    """The same steps over clean images alone: poison leaves no trace in batch norm. Batches of one are left out.

    Sizes and numbers stay those of the whole batches: the learning rate and the loss's denominator know no poison.
    """
    index = torch.cat([step.index for step in steps])
    clean = ~images.poison[index]
    counts = torch.stack([part.sum() for part in clean.split([len(step.index) for step in steps])]).tolist()
    kept = [replace(step, index=own) for step, own in zip(steps, index[clean].split(counts), strict=True)]
    return [step for step in kept if len(step.index) >= LEAST]


def _mean(losses: Tensor, own: Tensor, among: Tensor) -> Tensor:
    """The part of `losses` (n,) that count, by `own` (n,), in the mean over all of a batch that count, by `among`."""
    return (own * losses).sum() / among.sum().clamp_min(1)
