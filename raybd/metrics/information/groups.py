"""Groups of training images whose information is measured: of one size, the same at every epoch and in the twin."""

from dataclasses import dataclass

import torch
from torch import Tensor

from raybd.metrics.subset import random_subset
from raybd.types import CLEAN, POISON, Poisoned

MIN_IMAGES = 32  # images: a smaller group is counted, and not measured


@dataclass(frozen=True)
class ImageGroups:
    """The measured images, and the groups that they make up."""

    index: Tensor  # (M,) into the training set
    size: int  # N, images of every measured group; 0 if none can be measured
    rows: dict[str, Tensor]  # group: (N,) positions in `index`
    counts: dict[str, int]  # group: images that there are of it, whether it is measured or not
    target: int | None  # the attacker's label, where there is one

    @property
    def table(self) -> Tensor:
        """(G, N) positions in `index`, a row a measured group."""
        return torch.stack(list(self.rows.values()))


def target_label(poisoned: Poisoned) -> int | None:
    """The label of all poisoned images; None where there are none, or they have several."""
    labels = poisoned.images.y[poisoned.roles == POISON].unique()
    return int(labels) if len(labels) == 1 else None


def choose_groups(poisoned: Poisoned, samples: int, classes: int, seed: int) -> ImageGroups:
    """At most `samples` images of each group, as many of each as the smallest that has `MIN_IMAGES` allows.

    backdoor; target_clean; `classes` clean ones, spread over all; and from the same images target (the whole class
    in its own proportions), target_mix (half backdoor, half clean) and random (equal parts of the clean classes).
    """
    target = target_label(poisoned)
    pools = _pools(poisoned, target, classes)
    counts = {name: len(pool) for name, pool in pools.items()}
    enough = {name: pool for name, pool in pools.items() if len(pool) >= MIN_IMAGES}
    size = min([samples, *(len(pool) for pool in enough.values())]) if enough else 0
    taken = {name: random_subset(pool, size, seed, "information", name) for name, pool in enough.items()}
    starts = {name: position * size for position, name in enumerate(taken)}
    rows = {name: torch.arange(start, start + size) for name, start in starts.items()}
    index = torch.cat([*taken.values(), torch.empty(0, dtype=torch.int64)])
    return ImageGroups(index, size, rows | _mixtures(rows, counts, size), counts, target)


def _pools(poisoned: Poisoned, target: int | None, classes: int) -> dict[str, Tensor]:
    y, clean, bad = (t.cpu() for t in (poisoned.images.y, poisoned.roles == CLEAN, poisoned.roles == POISON))
    pools = {}
    if bad.any():
        pools["backdoor"] = bad.nonzero().squeeze(1)
    if target is not None:
        pools["target_clean"] = (clean & (y == target)).nonzero().squeeze(1)
    others = [int(c) for c in y[clean].unique() if c != target]
    for c in others[:: max(1, len(others) // classes)][:classes]:
        pools[f"clean_{c}"] = (clean & (y == c)).nonzero().squeeze(1)
    return pools


def _mixtures(rows: dict[str, Tensor], counts: dict[str, int], size: int) -> dict[str, Tensor]:
    mixed = {}
    if {"backdoor", "target_clean"} <= rows.keys():
        share = counts["backdoor"] / (counts["backdoor"] + counts["target_clean"])
        for name, part in (("target", round(share * size)), ("target_mix", size // 2)):
            mixed[name] = torch.cat([rows["backdoor"][:part], rows["target_clean"][: size - part]])
    if clean := [rows for name, rows in rows.items() if name.startswith("clean_")]:
        mixed["random"] = torch.stack(clean, 1).flatten()[:size]
    return mixed
