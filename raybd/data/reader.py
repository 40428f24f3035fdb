"""The interface of readers of data sets, and the validation that all of them share."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from raybd.data.target import MEMORY, Target
from raybd.errors import InputError
from raybd.types import Images

Array = npt.NDArray[Any]
SPLITS = ("train", "test")


@dataclass(frozen=True)
class RawData:
    """A data set as it was read: its two splits and its class names."""

    train: Images
    test: Images
    classes: tuple[str, ...]


class Reader(Protocol):
    """One family of data sets. `where` is the data root, or the path after `npz:` or `folder:`."""

    def stamp(self, where: Path) -> str:
        """A version of the source, which changes when the source does; "" where there is none.

        Raises:
            InputError: the source cannot be a data set, as far as a look at its files tells.
        """

    def read(self, where: Path, target: Target = MEMORY) -> RawData:
        """The images, read from the source itself; those of many files into `target`, in its size.

        Raises:
            InputError: with every problem found in the source.
        """


def stamp_of(paths: Iterable[Path], base: Path) -> str:
    """A hash of the names under `base`, sizes and times (ns) of `paths` and of all files below them; "" for none.

    The time of the last change of a file's status is among them: unlike that of the last modification it cannot be set
    back, so that a file replaced by one of equal size and date has another stamp.
    """
    files = sorted(file for path in paths for file in _files(path))
    lines = [f"{file.relative_to(base).as_posix()}\0{_version(file)}\n" for file in files]
    return hashlib.sha256(os.fsencode("".join(lines))).hexdigest() if lines else ""


def _version(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError as error:  # a link to nothing or to itself: reading names it
        return f"unreadable ({error.errno})"
    return f"{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}"


def _files(path: Path) -> Iterator[Path]:
    """`path`, or every file below it."""
    return (file for file in path.rglob("*") if file.is_file()) if path.is_dir() else iter([path])


def validated(source: str, arrays: Mapping[str, Array], classes: Sequence[str] | None = None) -> RawData:
    """The data set of `x_train`, `x_test` (N, C, H, W) uint8 and `y_train`, `y_test` (N,) integers.

    Raises:
        InputError: as `array_problems`, each line opened by `source`.
    """
    if problems := array_problems(arrays, classes):
        raise InputError(f"{source}: {problem}" for problem in problems)
    names = classes or [str(label) for label in np.unique(arrays["y_train"])]
    train, test = (_images(arrays[f"x_{split}"], arrays[f"y_{split}"]) for split in SPLITS)
    return RawData(train, test, tuple(names))


def array_problems(arrays: Mapping[str, Array], classes: Sequence[str] | None) -> list[str]:
    """Every reason why `arrays` are no data set; absent arrays are not checked."""
    problems = _name_problems(classes or ())
    for split in SPLITS:
        x, y = arrays.get(f"x_{split}"), arrays.get(f"y_{split}")
        if (x is not None and not x.size) or (y is not None and not y.size):
            problems.append(f"the {split} split is empty")
        if x is not None and y is not None and len(x) != len(y):
            problems.append(f"{len(x)} {split} images but {len(y)} {split} labels")
    if "x_train" in arrays and "x_test" in arrays:
        train, test = arrays["x_train"].shape[1:], arrays["x_test"].shape[1:]
        if train != test:
            problems.append(f"training images are {train} but test images {test} (C, H, W): make them the same")
    if "y_train" in arrays and "y_test" in arrays and arrays["y_train"].size:
        problems += _label_problems(arrays["y_train"], arrays["y_test"], classes)
    return problems


def _name_problems(classes: Sequence[str]) -> list[str]:
    """Class names that are empty, not UTF-8, or said twice."""
    unprintable = [name for name in classes if name != name.encode(errors="replace").decode()]
    twice = [name for name, count in Counter(classes).items() if count > 1 and name]
    problems = [f"class names that are not UTF-8: {shorten(unprintable)}"] * bool(unprintable)
    problems += [f"class names that occur twice: {shorten(twice)}"] * bool(twice)
    if nameless := [label for label, name in enumerate(classes) if not name.strip()]:
        problems.append(f"classes without a name: {shorten(nameless)}")
    return problems


def shorten(values: Iterable[Any], most: int = 10) -> str:
    """`values` with commas, and how many more there are beyond `most`."""
    values = list(values)
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(str(value) for value in values[:most]) + more


def _label_problems(train: Array, test: Array, classes: Sequence[str] | None) -> list[str]:
    problems = []
    seen = np.unique(train)
    count = len(classes) if classes else len(seen)
    if count < 2:
        problems.append(f"{count} class only ({shorten(seen)}): at least 2 are needed")
    if not np.array_equal(seen, np.arange(count)):
        named = " (there are that many class names)" if classes else ""
        problems.append(
            f"training labels are {shorten(seen)}: they must be 0 to {count - 1}{named}, each at least once; "
            "numpy.unique(labels, return_inverse=True)[1] renumbers them"
        )
    if len(extra := np.setdiff1d(test, seen)):
        problems.append(f"test labels that no training image has: {shorten(extra)}")
    return problems


def _images(x: Array, y: Array) -> Images:
    # torch.from_numpy shares the memory, which must be contiguous and writable
    return Images(torch.from_numpy(np.require(x, requirements=["C", "W"])), torch.from_numpy(y.astype(np.int64)))
