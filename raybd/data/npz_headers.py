"""Sizes of the arrays in a .npz file, read from their headers before any of them is."""

import math
import zipfile
from collections.abc import Callable, Iterable
from typing import IO, Any

from numpy.lib import format as npy

from raybd.utils.memory import available_bytes, format_bytes

READERS: dict[tuple[int, int], Callable[[IO[bytes]], tuple[tuple[int, ...], bool, Any]]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}


def size_problems(file: zipfile.ZipFile, keys: Iterable[str]) -> list[str]:
    """Why the arrays `keys` of `file` cannot be read into memory: a size that is not there, or that no memory holds.

    An array whose header cannot be understood is left to NumPy, which refuses it before it takes any memory.
    """
    sizes = {key: size for key in keys if (size := _declared_bytes(file, key)) is not None}
    held = {key: file.getinfo(_member(key)).file_size for key in sizes}
    problems = [
        f"{key} cannot be read: its header claims {format_bytes(size)}, the file holds {format_bytes(held[key])} of it"
        for key, size in sizes.items()
        if size > held[key]
    ]
    total, free = sum(sizes.values()), available_bytes()
    if not problems and total > free:
        problems.append(f"its arrays take {format_bytes(total)}, and this machine has {format_bytes(free)} free")
    return problems


def _member(key: str) -> str:
    return f"{key}.npy"


def _declared_bytes(file: zipfile.ZipFile, key: str) -> int | None:
    """Bytes of the array `key` by its header; None where that tells none."""
    try:
        with file.open(_member(key)) as member:
            shape, _, dtype = READERS[npy.read_magic(member)](member)
    except Exception:  # noqa: BLE001 - a broken file raises whatever its bytes suggest
        return None
    return math.prod(shape) * int(dtype.itemsize)
