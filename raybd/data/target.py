"""Target: where the images of a set that is being read are put, and the size that they get."""

import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from raybd.errors import InputError
from raybd.utils.memory import available_bytes, format_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

Bytes = npt.NDArray[np.uint8]
MAPPED = 2**26  # bytes from which on a set is decoded into a file
THREADS = 4
T = TypeVar("T")
V = TypeVar("V")
PART = 4096  # images handed to the threads at a time


@dataclass(frozen=True)
class Target:
    """A folder for scratch files, and the side of the images in pixels."""

    side: int = 0  # 0: as they are
    folder: Path | None = None  # None: in memory

    def empty(self, shape: tuple[int, ...]) -> Bytes:
        """An array of `shape`: a large one in a file without a name, whose pages the system can write out and drop.

        Raises:
            InputError: there is no room for it.
        """
        size = math.prod(shape)
        free = self.free_disk() if self.maps(size) else available_bytes()
        if size > free:
            place = "the disk of the cache" if self.maps(size) else "this machine"
            raise InputError(
                f"images of {'x'.join(map(str, shape[1:]))} take {format_bytes(size)}, and {place} has "
                f"{format_bytes(free)} free"
            )
        if self.folder is None or not self.maps(size):
            return np.empty(shape, np.uint8)
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.folder) as file:  # the map outlives it
            return np.memmap(file, np.uint8, "w+", shape=shape)

    def maps(self, size: int) -> bool:
        """Whether an array of `size` bytes is put into a file."""
        return self.folder is not None and size >= MAPPED

    def free_disk(self) -> int:
        """Bytes that are free where the files are."""
        folder = self.folder or Path()
        return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free

    def channels_first(self, x: Bytes) -> Bytes:
        """`x` (N, H, W, C) as (N, C, H, W), of a large set a copy in a file."""
        moved = x.transpose(0, 3, 1, 2)
        if not self.maps(x.size):
            return moved
        made = self.empty(moved.shape)
        for start in range(0, len(x), PART):
            made[start : start + PART] = moved[start : start + PART]
        return made

    def resized(self, x: Bytes) -> Bytes:
        """`x` (N, C, H, W) with the side asked for; the same array where it has it."""
        if not self.side or x.shape[2:] == (self.side, self.side):
            return x
        made = self.empty((*x.shape[:2], self.side, self.side))

        def one(row: int) -> None:
            image = to_image(x[row])
            made[row] = to_array(square(image, self.side), x.shape[1])

        in_threads(one, range(len(x)))
        return made


MEMORY = Target()


def in_threads(function: Callable[[V], T], values: Sequence[V]) -> list[T]:
    """`function` of each value, by threads; a few values at a time, for each one waiting holds a kilobyte."""
    found: list[T] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(values), PART):
            found += pool.map(function, values[start : start + PART])
    return found


def square(image: "Image", side: int) -> "Image":
    """`image` with its shorter side at `side` pixels (bilinear, antialiased), and the middle of its longer one."""
    from PIL import Image

    width, height = image.size
    scale = side / min(width, height)
    size = max(side, round(width * scale)), max(side, round(height * scale))
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return image.resize(size, Image.Resampling.BILINEAR).crop((left, top, left + side, top + side))


def to_image(x: Bytes) -> "Image":
    """The image of `x` (C, H, W)."""
    from PIL import Image

    return Image.fromarray(x[0] if len(x) == 1 else np.ascontiguousarray(x.transpose(1, 2, 0)))


def to_array(image: "Image", channels: int) -> Bytes:
    """(C, H, W) of `image`, grey ones repeated where there shall be three channels."""
    x = np.asarray(image, dtype=np.uint8)
    return np.broadcast_to(x, (channels, *x.shape)) if x.ndim == 2 else x.transpose(2, 0, 1)
