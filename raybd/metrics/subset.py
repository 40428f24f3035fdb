"""Nested random subsets: the images that a metric is measured on."""

from torch import Tensor, arange, randperm

from raybd.seeds import stream
from raybd.types import Images


def random_subset(indices: Tensor, size: int, seed: int, *names: str) -> Tensor:
    """At most `size` of `indices` (N,), in the random order of the stream `names` of `seed`.

    Subsets are nested: that of a smaller size begins that of a larger one.
    """
    order = randperm(len(indices), generator=stream(seed, *names))[:size]
    return indices[order.to(indices.device)]


def random_images(images: Images, size: int, seed: int, *names: str) -> Images:
    """At most `size` of `images`, by `random_subset`."""
    return images.take(random_subset(arange(len(images), device=images.x.device), size, seed, *names))
