"""Activation clustering: a poisoned class falls into two groups, and the smaller one is the poison.

Chen et al., "Detecting Backdoor Attacks on Deep Neural Networks by Activation Clustering", SafeAI 2019
(arXiv:1811.03728), algorithm 1 with the silhouette score of its section 5.1; of its three ways to tell a poisoned
class, the others being the relative size, and training once more to see what becomes of the cluster.

The paper reduces the activations to 10 independent components. Those of unit variance are a rotation of the whitened
principal components, and neither 2-means nor silhouettes see a rotation: the principal components are exact, and
need no iteration.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from raybd.defences.base import TrainingContext
from raybd.defences.filtering import Filter, FilterResult, features_of, two_means
from raybd.models import Classifier

FLAT = 1e-6  # of the largest singular value: directions below it hold nothing
FEWEST = 3  # images of a class in which two groups can be told


@dataclass(frozen=True, kw_only=True)
class ActivationClustering(Filter):
    """Removes the smaller cluster of each class whose two clusters stand apart.

    Where poison is about half of its class, the smaller cluster may be the clean one.
    """

    components: Annotated[int, Ge(1)] = 10
    silhouette: Annotated[float, Interval(ge=-1, lt=1)] = 0.15  # a class is poisoned above it (the paper: 0.10 to 0.15)

    def detect(self, context: TrainingContext, network: Classifier) -> FilterResult:
        """Two clusters of each class in the network's features.

        The suspicion is the silhouette of the class (0 if it is negative) times how much nearer an image is to the
        smaller cluster's centre: (far - near) / (far + near).
        """
        features, y = features_of(network, context.images, context), context.images.y.cpu()
        suspicion, flagged = torch.zeros(len(y), dtype=torch.float64), torch.zeros(len(y), dtype=torch.bool)
        for label in range(context.classes):
            index = (y == label).nonzero()[:, 0]
            if len(index) < FEWEST:
                continue
            z = whitened(features[index], self.components)
            small, score = clustered(z)
            flagged[index] = small & (score > self.silhouette)
            suspicion[index] = max(score, 0.0) * _leaning(z, small)
        return FilterResult(suspicion, flagged)


def whitened(features: Tensor, components: int) -> Tensor:
    """The first principal components of `features` (n, D), each of mean 0 and variance 1: (n, up to `components`)."""
    u, s, _ = torch.linalg.svd(features - features.mean(0), full_matrices=False)
    held = (s > FLAT * s[0]).nonzero()[:components, 0]
    whole: Tensor = u[:, held] * len(features) ** 0.5
    return whole


def clustered(z: Tensor) -> tuple[Tensor, float]:
    """The smaller of two clusters of `z` (n, d), as a mask (n,), and their silhouette; -1 if there are not two."""
    from sklearn.metrics import silhouette_score

    small, _ = two_means(z)
    if not 0 < int(small.sum()) < len(z):
        return small, -1.0
    return small, float(silhouette_score(z.numpy(), small.numpy()))


def _leaning(z: Tensor, small: Tensor) -> Tensor:
    """(n,) in [-1, 1]: how much nearer each of `z` (n, d) is to the centre of `small` (n,) than to that of the rest."""
    if not small.any() or small.all():
        return torch.zeros(len(z), dtype=z.dtype)
    near, far = ((z - z[group].mean(0)).norm(dim=1) for group in (small, ~small))
    leaning: Tensor = (far - near) / (far + near)
    return leaning
