"""Features T, the pooled last block, of images in a network with internal noise."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from raybd.errors import InputError
from raybd.models import Classifier
from raybd.models.batch_size import batch_size, batched
from raybd.models.noise import shared_noise, without_noise
from raybd.seeds import stream

FRESH_DRAWS = 4  # draws of each image on which a critic is evaluated, beside those from which it is made
SHARE = 4  # images that share the noise of a pass: random numbers cost a CPU as much as a small network
ROWS = {"cpu": 256, "cuda": 8192}  # of a batch, at most: what fits a core's cache, what fills a GPU
DRAWS = 8  # of each image at a time: SHARE * DRAWS rows are the least that a batch can have


def require_classifier(model: nn.Module) -> Classifier:
    """`model` as a `Classifier`, which has features and a head.

    Raises:
        InputError: it is none.
    """
    if isinstance(model, Classifier):
        return model
    raise InputError(f"information needs a model that is a raybd.models.Classifier, {type(model).__name__} is none")


@torch.no_grad()
def noisy_features(model: Classifier, x: Tensor, draws: int) -> Tensor:
    """Features T (M, draws, D) of the bytes `x` (M, C, H, W): each draw with new noise, independent within an image.

    The noise of a group of `SHARE` images has a stream of its own, and does not hang on how many are in a batch.
    """
    groups = torch.cat([x, x[: -len(x) % SHARE]]).split(SHARE)
    seed, rows = int(torch.randint(2**62, ())), batch_size(model, x, ROWS.get(x.device.type, 256))
    parts = []
    for first in range(0, draws, DRAWS):
        some = min(DRAWS, draws - first)
        numbers = torch.arange(len(groups)).split(max(1, rows // (SHARE * some)))
        parts.append(torch.cat([_of_groups(model, groups, part.tolist(), seed, first, some) for part in numbers]))
    return torch.cat(parts, 1)[: len(x)]


def _of_groups(
    model: Classifier, groups: Sequence[Tensor], numbers: list[int], seed: int, first: int, draws: int
) -> Tensor:
    """Draws `first` to `first + draws` of T (M, draws, D) of the images in the groups `numbers`."""
    x = torch.cat([groups[number] for number in numbers])
    with shared_noise(SHARE, draws, [stream(seed, number, first, device=x.device) for number in numbers]):
        features: Tensor = _features(model, x.repeat_interleave(draws, 0)).unflatten(0, (-1, draws))
    return features


@torch.no_grad()
def noiseless_features(model: Classifier, x: Tensor) -> Tensor:
    """Features T (M, D) of the bytes `x` (M, C, H, W) with every noise at 0."""
    with without_noise():
        size = batch_size(model, x, ROWS.get(x.device.type, 256))
        return batched(partial(_features, model), x, size=size)


def _features(model: Classifier, x: Tensor) -> Tensor:
    images = x.to(memory_format=torch.channels_last).float().div_(255)
    features: Tensor = model.features(model.normalise(images))
    return features.float()
