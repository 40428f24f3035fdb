"""Arrays in a .npz file."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raybd.data.npz_headers import read_array, size_problems
from raybd.data.reader import Array, RawData, array_problems, shorten, stamp_of, validated
from raybd.data.target import MEMORY, Target
from raybd.errors import InputError

KEYS = ("x_train", "y_train", "x_test", "y_test")
NAMES = ("classes", "class_names")


@dataclass(frozen=True)
class Npz:
    """`x_train`, `x_test` uint8, `y_train`, `y_test` integers 0 to C-1, and, if wanted, C names in `classes` or
    `class_names`.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3.
    """

    def stamp(self, where: Path) -> str:
        """Of the file's size and time."""
        if not os.path.isfile(where):  # noqa: PTH113 - Path's raises where a name is too long
            raise InputError(f"npz:{where}: there is no such file")
        return stamp_of([where], where.parent)

    def read(self, where: Path, target: Target = MEMORY) -> RawData:
        """The arrays of the file `where`."""
        stored, problems = _stored(where, target)
        return raw_data(f"npz:{where}", stored, target, problems)


def raw_data(source: str, stored: Mapping[str, Array], target: Target, found: Sequence[str] = ()) -> RawData:
    """The data set of arrays by the names of `KEYS`, with the names of its classes if they are there.

    Raises:
        InputError: with the problems that were `found` before and all others, each opened by `source`.
    """
    problems, arrays = list(found), dict[str, Array]()
    given = {name: _names(np.asarray(stored[name])) for name in NAMES if name in stored}
    classes = next(iter(given.values()), None)
    if any(names != classes for names in given.values()):
        problems.append(f"{' and '.join(given)} name the classes differently: keep one of them")
    if not found and (missing := [key for key in KEYS if key not in stored]):
        problems.append(f"no {', '.join(missing)} (there is {shorten(sorted(stored)) or 'nothing'})")
    for key, value in ((key, np.asarray(stored[key])) for key in KEYS if key in stored):
        if problem := _dtype_problem(key, value) or _shape_problem(key, value):
            problems.append(problem)
        else:
            arrays[key] = _nchw(value, target) if key.startswith("x") else value
    if problems:
        problems += array_problems(arrays, classes)
        raise InputError(f"{source}: {problem}" for problem in problems)
    return validated(source, arrays, classes)


def _stored(path: Path, target: Target) -> tuple[dict[str, Array], list[str]]:
    """The arrays of `path` that can be read, and the problems of the others."""
    try:
        file = np.load(path, allow_pickle=False)
    except Exception as error:  # a broken file raises whatever its bytes suggest
        raise InputError(f"npz:{path}: not a .npz file of plain arrays ({error})") from error
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise InputError(f"npz:{path}: one array alone, not a .npz file; numpy.savez writes one")
    with file:
        return _entries(file, target)


def _entries(file: Any, target: Target) -> tuple[dict[str, Array], list[str]]:
    """The arrays of the open `NpzFile`; none where their sizes forbid it."""
    if problems := size_problems(file.zip, (key for key in (*KEYS, *NAMES) if key in file), target):
        return {}, problems
    arrays = {}
    if missing := [key for key in KEYS if key not in file]:
        problems.append(f"no {', '.join(missing)} (there is {shorten(sorted(file)) or 'nothing'})")
    for key in (key for key in (*KEYS, *NAMES) if key in file):
        try:
            mapped = read_array(file.zip, key, target)
            arrays[key] = np.asarray(file[key]) if mapped is None else mapped
        except Exception as error:  # noqa: BLE001 - as above
            problems.append(f"{key} cannot be read ({error}); pickled objects are refused: save plain arrays")
    return arrays, problems


def _names(names: Array) -> list[str]:
    """Texts; bytes that are not UTF-8 as surrogates, which `array_problems` refuses."""
    return [os.fsdecode(name) if isinstance(name, bytes) else str(name) for name in names.reshape(-1).tolist()]


def _dtype_problem(key: str, value: Array) -> str | None:
    if key.startswith("y"):
        fine, wanted, fix = value.dtype.kind in "iu", "integers", "y.astype(numpy.int64)"
    else:
        fine, wanted, fix = value.dtype == np.uint8, "uint8 in 0-255", _fix(value)
    return None if fine else f"{key} is {value.dtype}{_value_range(value)}, must be {wanted}: {fix}"


def _value_range(value: Array) -> str:
    if value.dtype.kind not in "iuf" or not value.size:
        return ""
    return f" from {value.min():g} to {value.max():g}"


def _fix(x: Array) -> str:
    if x.dtype.kind == "b":
        return "x.astype(numpy.uint8) * 255"
    if x.dtype.kind == "f" and x.size and x.min() >= 0 and x.max() <= 1:
        return "(x * 255).round().astype(numpy.uint8)"
    if x.dtype.kind == "f" and x.size and x.min() < 0 and x.min() >= -1 and x.max() <= 1:
        return "((x + 1) * 127.5).round().astype(numpy.uint8) if it was scaled to [-1, 1]"
    return "bring it to 0-255, then x.round().astype(numpy.uint8)"


def _shape_problem(key: str, value: Array) -> str | None:
    if key.startswith("y"):
        return None if value.ndim == 1 else f"{key} is {value.shape}, must be (N,): one label for each image"
    if value.ndim == 3:
        return None
    last = value.ndim == 4 and value.shape[3] in (1, 3)
    first = value.ndim == 4 and value.shape[1] in (1, 3)
    if last and first:
        return f"{key} is {value.shape}: channels could be first or last; no side of an image may be 1 or 3"
    wanted = "(N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3"
    return None if last or first else f"{key} is {value.shape}, must be {wanted}"


def _nchw(x: Array, target: Target) -> Array:
    if x.ndim == 3:
        return x[:, None]
    return x if x.shape[1] in (1, 3) else target.channels_first(x)
