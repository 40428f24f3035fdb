"""Fingerprint, mean and deviation of a data set."""

import hashlib

import numpy as np
import torch
from torch import Tensor

from raybd.data.reader import RawData
from raybd.types import Data

STD_FLOOR = 1e-3
PART = 1024  # images that are looked at together


def describe(name: str, raw: RawData) -> Data:
    """`raw` with its fingerprint and the mean and deviation of its training images."""
    mean, std = mean_std(raw.train.x)
    return Data(name, raw.train, raw.test, raw.classes, fingerprint(raw), mean, std)


def fingerprint(raw: RawData) -> str:
    """16 hex digits: SHA-256 of shape and bytes of the training images and labels, then of the test ones.

    Class names and the place the images came from do not count; their order does.
    """
    digest = hashlib.sha256()
    for split in (raw.train, raw.test):
        digest.update(str(tuple(split.x.shape)).encode())
        for part in split.x.split(PART):
            digest.update(part.contiguous().numpy().data)
        y = split.y.numpy().astype("<i8", copy=False)
        digest.update(str(y.shape).encode())
        digest.update(np.ascontiguousarray(y).data)
    return digest.hexdigest()[:16]


def mean_std(x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population deviation of each channel of `x` (N, C, H, W) uint8, in [0, 1].

    Exact sums over the 256 values a pixel can have. No deviation is below `STD_FLOOR`: a channel
    that is the same everywhere can still be divided by it.
    """
    counts = torch.zeros(x.shape[1], 256, dtype=torch.int64)
    for part in x.split(PART):
        for channel, values in enumerate(part.unbind(1)):
            counts[channel] += torch.bincount(values.reshape(-1), minlength=256).cpu()
    moments = [_moments(channel) for channel in counts.tolist()]
    return tuple(mean for mean, _ in moments), tuple(std for _, std in moments)


def _moments(counts: list[int]) -> tuple[float, float]:
    total = sum(counts)
    first = sum(value * count for value, count in enumerate(counts))
    second = sum(value**2 * count for value, count in enumerate(counts))
    variance = (second * total - first**2) / total**2
    return first / total / 255, max(variance**0.5 / 255, STD_FLOOR)
