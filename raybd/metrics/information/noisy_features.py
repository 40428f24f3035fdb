"""Features T, the pooled last block, of images in a network with internal noise."""

import torch
from torch import Tensor, nn

from raybd.errors import InputError
from raybd.models import Classifier
from raybd.models.noise import shared_noise, without_noise

FRESH_DRAWS = 4  # draws of each image on which a critic is evaluated, beside those from which it is made
SHARE = 4  # images that share the noise of a pass: random numbers cost a CPU as much as a small network
ROWS = {"cpu": 256, "cuda": 8192}  # of a batch: what fits a core's cache, what fills a GPU


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
    """Features T (M, draws, D) of the bytes `x` (M, C, H, W): each draw with new noise, independent within an image."""
    padded = torch.cat([x, x[: -len(x) % SHARE]])
    at_once = SHARE * max(1, ROWS.get(x.device.type, 256) // (SHARE * draws))
    with shared_noise(SHARE, draws):
        parts = [_features(model, part.repeat_interleave(draws, 0)) for part in padded.split(at_once)]
    features: Tensor = torch.cat(parts).unflatten(0, (-1, draws))[: len(x)]
    return features


@torch.no_grad()
def noiseless_features(model: Classifier, x: Tensor) -> Tensor:
    """Features T (M, D) of the bytes `x` (M, C, H, W) with every noise at 0."""
    with without_noise():
        return torch.cat([_features(model, part) for part in x.split(ROWS.get(x.device.type, 256))])


def _features(model: Classifier, x: Tensor) -> Tensor:
    images = x.to(memory_format=torch.channels_last).float().div_(255)
    features: Tensor = model.features(model.normalise(images))
    return features.float()
