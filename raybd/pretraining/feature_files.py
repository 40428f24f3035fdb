"""Features computed by the user: rows in a .npy or .npz file."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raybd.errors import InputError
from raybd.utils.cache import content_hash

SUFFIXES = (".npy", ".npz")


def fingerprint(x: Tensor) -> str:
    """16 hex digits of SHA-256 of the images `x` (N, C, H, W) uint8, in their order, without labels."""
    return content_hash(x)


def read_features(file: Path, x: Tensor) -> Tensor:
    """The features (N, D) float32 of the images `x` (N, C, H, W) uint8 in `file`, one row an image, in their order.

    A .npy file holds one array of N rows. A .npz file may hold several: the one named by the `fingerprint` of `x` is
    taken, else the only one of N rows. No pickled objects are read.

    Raises:
        InputError: the file cannot be read, or no array of it is for `x`.
    """
    arrays = _arrays(file)
    wanted = fingerprint(x)
    rows = [array for name, array in arrays.items() if name == wanted]
    rows = rows or [array for array in arrays.values() if len(array) == len(x)]
    if len(rows) != 1:
        listed = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise InputError(f"{file} must hold one array of {len(x)} rows, or one called {wanted}; it has: {listed}")
    if rows[0].dtype.kind not in "fiu":
        raise InputError(f"features in {file} must be numbers, got {rows[0].dtype}")
    return torch.from_numpy(np.ascontiguousarray(rows[0], dtype=np.float32))


def _arrays(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        held = np.load(file, allow_pickle=False)
        found = {file.stem: held} if isinstance(held, np.ndarray) else dict(held)
    except Exception as error:
        raise InputError(f"the features in {file} cannot be read: {error}") from error
    return {name: np.atleast_1d(array) for name, array in found.items()}
