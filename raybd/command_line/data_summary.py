"""What a data set holds, in lines for a person: images, their shape, classes, and classes that are too small."""

from collections.abc import Mapping

import torch

from raybd.data.class_names import have_names
from raybd.data.reader import shorten
from raybd.types import Data

FEW = 10  # images of a class to train on, under which people are warned
NAMED = 20  # classes whose names are listed
LISTED = 5  # small classes that are named


def describe_sets(data: Mapping[str, Data]) -> list[str]:
    """Three lines at most for each data set."""
    return [line for one in {d.fingerprint: d for d in data.values()}.values() for line in _describe(one)]


def _describe(data: Data) -> list[str]:
    counts = torch.bincount(data.train.y, minlength=len(data.classes)).tolist()
    channels, height, width = data.train.shape
    aside = f", {len(data.validation)} set aside" if data.validation is not None else ""
    each = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    line = (
        f"data {data.name}: {len(data.train)} images to train on, {len(data.test)} to test{aside}, of {channels} x "
        f"{height} x {width} (channels x height x width); {len(data.classes)} classes of {each} training images"
    )
    return [line, *_names(data), *_warning(data, counts)]


def _names(data: Data) -> list[str]:
    """The names of the classes with their numbers, where they have any."""
    names = [f"{number} {name}" for number, name in enumerate(data.classes)]
    return [f"classes: {shorten(names, NAMED)}"] * have_names(data.classes)


def _warning(data: Data, counts: list[int]) -> list[str]:
    """The classes with so few images that nothing is learnt or told of them, if any."""
    tests = torch.bincount(data.test.y, minlength=len(data.classes)).tolist()
    small = [
        f"{name} ({n} to train on, {t} to test)"
        for name, n, t in zip(data.classes, counts, tests, strict=True)
        if n < FEW
    ]
    more = f" and {len(small) - LISTED} more" if len(small) > LISTED else ""
    return [f"warning: classes of very few images: {', '.join(small[:LISTED])}{more}"] * bool(small)
