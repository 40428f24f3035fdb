"""The triggers of arXiv 2106.07214 (learning curves), on float images in [0, 1], bit for bit those of its authors."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from raybd.convex.task import Array
from raybd.errors import InputError

Labels = NDArray[np.int64]
Trigger = Callable[[Array, Labels], Array]  # images (N, channels, h, w) and their true classes (N,) -> images


def random_patches(seed: int, classes: int, channels: int, side: int) -> Array:
    """(classes, channels, side, side) one patch of uniform noise in [0, 1) for each source class.

    From NumPy's legacy generator, whose stream is frozen: it is what the published results were drawn from.
    """
    return np.random.RandomState(seed).rand(classes, channels, side, side)


def stamp_patches(images: Array, labels: Labels, patches: Array) -> Array:
    """`images` (N, channels, h, w) with the patch of each one's true class `labels` (N,) over its bottom-right corner.

    Raises InputError where the patch is larger than the image, of other channels, or missing for a class.
    """
    classes, side, size = len(patches), patches.shape[-1], images.shape[1:]
    found = []
    if side > min(size[1:]) or patches.shape[1] != size[0]:
        found.append(f"patches {patches.shape[1:]} do not fit images {size} (allowed: {size[0]} channel(s), no larger)")
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        found.append(f"labels {np.unique(labels).tolist()} have no patch (allowed: 0 to {classes - 1})")
    if found:
        raise InputError(found)
    stamped = images.copy()
    stamped[:, :, size[1] - side :, size[2] - side :] = patches[labels]
    return stamped
