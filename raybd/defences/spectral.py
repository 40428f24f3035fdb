"""Spectral signatures: poison lies along the direction in which its class spreads the most.

Tran, Li and Madry, "Spectral Signatures in Backdoor Attacks", NeurIPS 2018 (arXiv:1811.00636), algorithm 1.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from raybd.defences.base import TrainingContext
from raybd.defences.filtering import Filter, FilterResult, features_of
from raybd.models import Classifier

MARGIN = 1.5  # the paper removes so many times the poison that it expects


@dataclass(frozen=True, kw_only=True)
class Spectral(Filter):
    """Removes the highest scores of every class, poisoned or not: always the same share, 1.5 `epsilon`.

    The paper's threat is a poison of at most a tenth of its class. Where it is more, some of it stays, whatever the
    scores are worth.
    """

    epsilon: Annotated[float, Interval(gt=0, lt=1 / MARGIN)] = 0.1  # largest share of a class that may be poison

    def detect(self, context: TrainingContext, network: Classifier) -> FilterResult:
        """The scores in the network's features, and the highest of each class."""
        y = context.images.y.cpu()
        scores = spectral_scores(features_of(network, context.images, context), y, context.classes)
        return FilterResult(scores, highest(scores, y, context.classes, MARGIN * self.epsilon))


def spectral_scores(features: Tensor, y: Tensor, classes: int) -> Tensor:
    """tau_i = ((r_i - mean) . v)^2 (N,): r_i of `features` (N, D), mean and v of the images with the same label.

    v is the first right singular vector of the rows r_i - mean. A class of one image, or of equal ones, has 0.
    """
    scores = torch.zeros(len(y), dtype=torch.float64)
    for label in range(classes):
        index = (y == label).nonzero()[:, 0]
        if len(index):
            rows = features[index] - features[index].mean(0)
            scores[index] = (rows @ torch.linalg.svd(rows, full_matrices=False)[2][0]).square()
    return scores


def highest(scores: Tensor, y: Tensor, classes: int, share: float) -> Tensor:
    """Mask (N,) of the round(share * n) highest `scores` (N,) of each class of n images; of equal ones, the first."""
    found = torch.zeros(len(y), dtype=torch.bool)
    for label in range(classes):
        index = (y == label).nonzero()[:, 0]
        order = scores[index].argsort(descending=True, stable=True)
        found[index[order[: round(share * len(index))]]] = True
    return found
