"""Images whose nearest neighbours have another label: wrong labels of one class are what most attacks leave behind.

Deep k-nearest neighbours against poisons: Peri et al., "Deep k-NN Defense Against Clean-label Data Poisoning Attacks",
ECCV workshops 2020.
"""

import torch
from torch import Tensor

NEIGHBOURS = 10


def neighbour_disagreement(points: Tensor, labels: Tensor) -> float:
    """How often the `NEIGHBOURS` nearest of the points (N, D) of a class have another of the labels (N,).

    The mean over a class's points, in [0, 1]: the largest of the classes less the median one; NaN of too few points.
    """
    if len(points) <= NEIGHBOURS:
        return float("nan")
    distances = torch.cdist(points.double(), points.double()).fill_diagonal_(torch.inf)
    nearest = labels[distances.topk(NEIGHBOURS, largest=False).indices]
    return largest_less_median((nearest != labels[:, None]).double().mean(1), labels)


def largest_less_median(values: Tensor, labels: Tensor) -> float:
    """Of the means of `values` (N,) over the images of each of the labels (N,), the largest less the median."""
    means = torch.stack([values[labels == label].mean() for label in labels.unique()]).double()
    return float(means.max() - means.quantile(0.5))
