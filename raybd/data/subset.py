"""Subsets of data sets by name: `mnist[7,1]` is two of its classes, `mnist[7,1;1500]` 1,500 training images.

Classes are named by their numbers or by their names: `cifar10[bird,cat]`.
"""

import os
import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from raybd.data.class_names import Label, is_name, numbers_of
from raybd.data.describe import describe
from raybd.data.reader import RawData, shorten
from raybd.errors import InputError
from raybd.pixels import as_pixels, stands_for
from raybd.seeds import stream
from raybd.types import Data, Images
from raybd.utils.files import expanded

CLASS = re.compile(r' *"(?:\\.|[^"\\])*" *|[^,"]+')  # number or name, in quotes where it looks like a number
CLASSES = re.compile(rf"(?:{CLASS.pattern})(?:,(?:{CLASS.pattern}))*")
FORM = re.compile(r"(?P<whole>.*)(?<!=)\[(?P<classes>[^\[\];]*)(?:;(?P<limit>[^\[\];]*))?\]")
SMALL = 2**26  # bytes; a larger subset is not copied into memory


@dataclass(frozen=True)
class Subset:
    """Classes in the order of their new labels, and the number of training images; 0: all."""

    classes: tuple[Label, ...]
    limit: int = 0

    @property
    def has_names(self) -> bool:
        """Whether a class is written by its name."""
        return any(map(is_name, self.classes))

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
    labels, limit = _labels(found["classes"]), found["limit"]
    if not labels or not (limit or "1").strip().isdecimal():
        raise InputError(
            f"data set {name!r}: a subset is written [7,1] or [7,1;1500] (classes, also by name; training images)"
        )
    subset = Subset(labels, int(limit or 0))
    if problems := _problems(name, subset):
        raise InputError(problems)
    return found["whole"], subset


def _labels(text: str) -> tuple[Label, ...]:
    """The classes between brackets; none where that is no list of them."""
    parts = [part.strip() for part in CLASS.findall(text)]
    if not CLASSES.fullmatch(text) or not all(parts):
        return ()
    return tuple(int(part) if part.isdecimal() else part for part in parts)


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
    subset = _numbered(data, subset)
    most = len(data.classes)
    numbers = tuple(label for label in subset.classes if isinstance(label, int))
    if missing := [label for label in numbers if label >= most]:
        raise InputError(f"{data.name}: no class {shorten(missing)} (allowed: 0 to {most - 1})")
    train, test = (_of(split, numbers) for split in (data.train, data.test))
    if subset.limit > len(train):
        raise InputError(f"{data.name}{subset}: only {len(train)} training images are of these classes")
    if subset.limit:
        order = torch.randperm(len(train), generator=stream(0, "subset"))
        train = train.part(order[: subset.limit].sort().values)
    if absent := [data.classes[label] for i, label in enumerate(numbers) if not (train.y == i).any()]:
        raise InputError(f"{data.name}{subset}: no training image of class {shorten(absent)}")
    names = tuple(data.classes[label] for label in numbers)
    return describe(f"{data.name}{subset}", RawData(train, test, names))


def _numbered(data: Data, subset: Subset) -> Subset:
    """`subset` with numbers in place of names."""
    try:
        known = replace(subset, classes=tuple(numbers_of(subset.classes, data.classes)))
    except InputError as error:
        raise InputError(f"{data.name}: {problem}" for problem in error.problems) from None
    if problems := _problems(f"{data.name}{subset}", known):
        raise InputError(problems)
    return known


def _of(images: Images, classes: tuple[int, ...]) -> Images:
    numbered = torch.full((max(int(images.y.max()), *classes) + 1,), -1)
    numbered[torch.tensor(classes)] = torch.arange(len(classes))
    y: Tensor = numbered[images.y]
    kept = (y >= 0).nonzero()[:, 0]
    found = as_pixels(images.x).subset(kept)
    return Images(found[:] if found.numel() < SMALL else stands_for(found), y[kept])


def _problems(name: str, subset: Subset) -> list[str]:
    found = []
    if twice := dict.fromkeys(label for label in subset.classes if subset.classes.count(label) > 1):
        found.append(f"data set {name!r} names class {shorten(twice)} twice")
    if len(set(subset.classes)) < 2:
        found.append(f"data set {name!r} is of one class (at least 2 are needed)")
    return found
