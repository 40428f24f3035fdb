"""What detectors do with images: probabilities, other images to try something on, smaller copies."""

import torch
import torch.nn.functional as F
from torch import Tensor

from raybd.models import Classifier
from raybd.models.batch_size import batch_size, batched
from raybd.seeds import stream

BATCH = 256


def unit(x: Tensor) -> Tensor:
    """Bytes (..., C, H, W) as floats in [0, 1]."""
    return x.float() / 255


@torch.inference_mode()
def probabilities(network: Classifier, x: Tensor) -> Tensor:
    """(n, K) float32 of the bytes or bytes' averages `x` (n, C, H, W), in the network's mode."""
    return batched(lambda some: network(unit(some)).softmax(1), x, size=batch_size(network, x, BATCH))


def donors(y: Tensor, index: Tensor, count: int, seed: int) -> Tensor:
    """(n, `count`): images of other labels for each of the images `index` (n,), of all labels `y` (N,).

    Drawn with replacement, from a stream of the image's own number: the draw does not depend on its neighbours.
    """
    drawn = []
    for i in index.tolist():
        others = (y != y[i]).nonzero()[:, 0]
        drawn.append(others[torch.randint(len(others), (count,), generator=stream(seed, "donors", i))])
    return torch.stack(drawn)


def reduced(x: Tensor, side: int) -> Tensor:
    """The bytes `x` (N, C, H, W) as floats in [0, 255], averaged to `side` pixels on the shorter side if larger."""
    least = min(x.shape[-2:])
    parts = (part.float() for part in x.split(BATCH))
    if least <= side:
        return torch.cat(list(parts))
    return torch.cat([F.interpolate(part, scale_factor=side / least, mode="area") for part in parts])
