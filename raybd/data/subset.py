"""Subsets of data sets by name: `mnist[7,1]` is two of its classes, `mnist[7,1;1500]` 1,500 training images."""

import os
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from raybd.data.describe import describe
from raybd.data.reader import RawData, shorten
from raybd.errors import InputError
from raybd.pixels import as_pixels, stands_for
from raybd.seeds import stream
from raybd.types import Data, Images
from raybd.utils.files import expanded

FORM = re.compile(r"(?P<whole>.*)\[(?P<classes>[^\[\];]*)(?:;(?P<limit>[^\[\];]*))?\]")
SMALL = 2**26  # bytes; a larger subset is not copied into memory


@dataclass(frozen=True)
class Subset:
    """Classes in the order of their new labels, and the number of training images; 0: all."""

    classes: tuple[int, ...]
    limit: int = 0

    def __str__(self) -> str:
        return f"[{','.join(map(str, self.classes))}{f';{self.limit}' if self.limit else ''}]"


def parse(name: str) -> tuple[str, Subset | None]:
    """The name of the whole data set and the subset of it that `name` asks for, if any.

    A path that exists as it is written, with brackets at its end, is a whole one.

    Raises:
        InputError: the brackets at its end hold no classes, or no number of images.
    """
    found = FORM.fullmatch(name)
    if found is None or _exists(name):
        return name, None
    numbers, limit = found["classes"].split(","), found["limit"]
    if not all(number.strip().isdecimal() for number in numbers) or not (limit or "1").strip().isdecimal():
        raise InputError(f"data set {name!r}: a subset is written [7,1] or [7,1;1500] (classes; training images)")
    subset = Subset(tuple(int(number) for number in numbers), int(limit or 0))
    if problems := _problems(name, subset):
        raise InputError(problems)
    return found["whole"], subset


def _exists(name: str) -> bool:
    _, colon, path = name.partition(":")
    return bool(colon) and os.path.exists(expanded(path))  # noqa: PTH110 - Path's raises where a name is too long


def restrict(data: Data, subset: Subset) -> Data:
    """The images of `subset.classes`, in the order of `data`; class i is the i-th listed.

    The training images of a limit are the first of one permutation of these classes', so they are nested, and the
    same for every seed. Test images are all of these classes'.

    Raises:
        InputError: `data` has no such class, or too few images.
    """
    most = len(data.classes)
    if missing := [label for label in subset.classes if label >= most]:
        raise InputError(f"{data.name}: no class {shorten(missing)} (allowed: 0 to {most - 1})")
    train, test = (_of(split, subset.classes) for split in (data.train, data.test))
    if subset.limit > len(train):
        raise InputError(f"{data.name}{subset}: only {len(train)} training images are of these classes")
    if subset.limit:
        order = torch.randperm(len(train), generator=stream(0, "subset"))
        train = train.part(order[: subset.limit].sort().values)
    if absent := [data.classes[label] for i, label in enumerate(subset.classes) if not (train.y == i).any()]:
        raise InputError(f"{data.name}{subset}: no training image of class {shorten(absent)}")
    names = tuple(data.classes[label] for label in subset.classes)
    return describe(f"{data.name}{subset}", RawData(train, test, names))


def _of(images: Images, classes: tuple[int, ...]) -> Images:
    numbered = torch.full((max(int(images.y.max()), *classes) + 1,), -1)
    numbered[torch.tensor(classes)] = torch.arange(len(classes))
    y: Tensor = numbered[images.y]
    kept = (y >= 0).nonzero()[:, 0]
    found = as_pixels(images.x).subset(kept)
    return Images(found[:] if found.numel() < SMALL else stands_for(found), y[kept])


def _problems(name: str, subset: Subset) -> list[str]:
    found = []
    if twice := sorted({label for label in subset.classes if subset.classes.count(label) > 1}):
        found.append(f"data set {name!r} names class {shorten(twice)} twice")
    if len(set(subset.classes)) < 2:
        found.append(f"data set {name!r} is of one class (at least 2 are needed)")
    return found
