"""Victims chosen by what they look like: poison in every cluster of images, or in those most like the target."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Interval
from numpy.typing import NDArray
from torch import Tensor

from raybd.attacks.base import Member, Presets, Shape
from raybd.attacks.composed import AroundAttack
from raybd.pixels import batches_of
from raybd.types import Images

SIDE = 8  # images are compared at 8x8
BATCH = 4096  # images that are read at once
LEAST = 4  # images of a cluster, on average


@dataclass(frozen=True, kw_only=True)
class Placed(AroundAttack):
    """Any attack with other victims (ours), chosen from the training images and their true labels alone.

    Images are averaged to 8x8. Each class that may be poisoned is divided into `clusters` by k-means (fewer where they
    would hold less than four images on average), and all clusters are ordered by the distance of their centre from the
    mean of the target class. concentrated: the nearest cluster is poisoned whole, then the next; spread: one image of
    each cluster in turn, so that all hold as much poison as any until they are full. Within a cluster the order is
    random.
    """

    placement: Literal["concentrated", "spread"] = "concentrated"
    clusters: Annotated[int, Interval(ge=1, le=1000)] = 10  # of each class

    presets: ClassVar[Presets] = {"spread": {"placement": "spread"}}

    def members(self) -> tuple[Member, ...]:
        """The attack within."""
        return (Member("", self.parsed(self.trigger), 1.0),)

    def victims_in_order(self, images: Images, candidates: Tensor, rng: torch.Generator) -> Tensor:
        """`candidates` (n,), indices into `images`, by the ranks of their clusters or one of each in turn."""
        x, y, chosen = small(images), images.y.cpu().numpy(), candidates.numpy()
        seed = int(torch.randint(2**31 - 1, (), generator=rng))
        rank = cluster_ranks(x[chosen], y[chosen], x[y == self.target].mean(0), self.clusters, seed)
        order = rank.argsort(kind="stable")
        if self.placement == "spread":
            turn = np.arange(len(order)) - np.searchsorted(rank[order], rank[order])
            order = order[turn.argsort(kind="stable")]
        return candidates[torch.from_numpy(order)]

    def problems(self, shape: Shape, classes: int) -> list[str]:
        """What the attack within finds; a target that is another for each image."""
        several = self.labels == "all_to_all" or any(m.attack.many_targets for m in self.members())
        found = ["victims are placed by their distance from one target: labels must be all_to_one"] * several
        return found + super().problems(shape, classes)


def small(images: Images) -> NDArray[np.float64]:
    """(N, C * 64) in [0, 1]: every image, averaged to 8x8."""
    parts = torch.arange(len(images)).split(BATCH)
    read = (F.adaptive_avg_pool2d(x.float() / 255, SIDE).flatten(1).cpu() for x in batches_of(images.x, parts))
    return torch.cat(list(read)).double().numpy()


def cluster_ranks(
    x: NDArray[np.float64], y: NDArray[np.int64], center: NDArray[np.float64], clusters: int, seed: int
) -> NDArray[np.int64]:
    """(n,) which cluster of its class each of `x` (n, D) of classes `y` is in: 0 for the one nearest `center`."""
    from sklearn.cluster import KMeans  # a second, which other attacks need not wait

    group, distances = np.empty(len(x), dtype=np.int64), list[float]()
    for label in np.unique(y):
        mine = x[y == label]
        count = max(1, min(clusters, len(mine) // LEAST, len(np.unique(mine, axis=0))))
        found = KMeans(count, n_init=1, random_state=seed).fit(mine)
        group[y == label] = found.labels_ + len(distances)
        distances += np.linalg.norm(found.cluster_centers_ - center, axis=1).tolist()
    return np.argsort(np.argsort(distances, kind="stable"))[group]
