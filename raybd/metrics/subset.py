"""Nested random subsets: the images that a metric is measured on."""

from torch import Tensor, randperm

from raybd.seeds import stream


def random_subset(indices: Tensor, size: int, seed: int, *names: str) -> Tensor:
    """At most `size` of `indices` (N,), in the random order of the stream `names` of `seed`.

    Subsets are nested: that of a smaller size begins that of a larger one.
    """
    order = randperm(len(indices), generator=stream(seed, *names))[:size]
    return indices[order.to(indices.device)]
