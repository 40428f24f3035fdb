"""Sizes of the arrays in a .npz file, read from their headers before any of them is; large ones read into a file."""

import math
import zipfile
from collections.abc import Callable, Iterable
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from raybd.data.target import MEMORY, Bytes, Target
from raybd.utils.memory import available_bytes, format_bytes

PART = 2**24  # bytes that are read at a time
READERS: dict[tuple[int, int], Callable[[IO[bytes]], tuple[tuple[int, ...], bool, Any]]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}


def size_problems(file: zipfile.ZipFile, keys: Iterable[str], target: Target = MEMORY) -> list[str]:
    """Why the arrays `keys` of `file` cannot be read into `target`: a size that is not there, or that nothing holds.

    An array whose header cannot be understood is left to NumPy, which refuses it before it takes any memory.
    """
    sizes = {key: size for key in keys if (size := _declared_bytes(file, key)) is not None}
    held = {key: file.getinfo(_member(key)).file_size for key in sizes}
    problems = [
        f"{key} cannot be read: its header claims {format_bytes(size)}, the file holds {format_bytes(held[key])} of it"
        for key, size in sizes.items()
        if size > held[key]
    ]
    on_disk = sum(size for size in sizes.values() if target.maps(size))
    total, free = sum(sizes.values()) - on_disk, available_bytes()
    if not problems and total > free:
        problems.append(f"its arrays take {format_bytes(total)}, and this machine has {format_bytes(free)} free")
    if not problems and on_disk > (free := target.free_disk()):
        problems.append(
            f"its images take {format_bytes(on_disk)}, and the disk of the cache has {format_bytes(free)} free"
        )
    return problems


def read_array(file: zipfile.ZipFile, key: str, target: Target) -> Bytes | None:
    """The array `key` of bytes of `file` in `target`; None where it is small, or of another kind.

    Raises:
        Exception: of any kind, by what is broken in the file.
    """
    size = _declared_bytes(file, key)
    if size is None or not target.maps(size):
        return None
    with file.open(_member(key)) as member:
        shape, by_column, dtype = READERS[npy.read_magic(member)](member)
        if dtype != np.uint8 or by_column:
            return None
        found = target.empty(shape)
        into = found.reshape(-1)
        for start in range(0, size, PART):
            piece = member.read(min(PART, size - start))
            into[start : start + len(piece)] = np.frombuffer(piece, np.uint8)
        member.read(1)  # to the end, where zipfile compares the checksum
    return found


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
