"""Pixels: images of a set that does not fit in memory, read from the disk a batch at a time. Imports nothing of raybd.

They stand for a tensor (N, C, H, W) uint8 wherever images are read by an index, or in parts in their order. What is
read is copied to the device; a tensor of all of them is never made.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor

AHEAD = 2  # batches that are read while one is worked on
CPU = torch.device("cpu")


class Source(ABC):
    """Where pixels come from."""

    @property
    @abstractmethod
    def shape(self) -> torch.Size:
        """(M, C, H, W)."""

    @abstractmethod
    def read(self, places: Tensor, out: Tensor) -> Tensor:
        """Copies of the images at `places` (n,) int64 in `out` (n, C, H, W); called by a background thread."""

    @abstractmethod
    def finish(self, x: Tensor, places: Tensor) -> Tensor:
        """What is made of `x`, read at `places`, on its device."""


@dataclass(frozen=True, eq=False)
class Stored(Source):
    """The bytes `x` (M, C, H, W) of a file that is mapped into memory."""

    x: Tensor

    @property
    def shape(self) -> torch.Size:
        """(M, C, H, W)."""
        return self.x.shape

    def read(self, places: Tensor, out: Tensor) -> Tensor:
        """Copies of the images at `places`."""
        return torch.index_select(self.x, 0, places, out=out)

    def finish(self, x: Tensor, places: Tensor) -> Tensor:
        """The images as they are."""
        return x


@dataclass(frozen=True, eq=False)
class Edited(Source):
    """The images `base`, changed by `edit` as they are read: it gets a batch, which it may write to, and its places."""

    base: "Pixels"
    edit: Callable[[Tensor, Tensor], Tensor]

    @property
    def shape(self) -> torch.Size:
        """(M, C, H, W)."""
        return self.base.shape

    def read(self, places: Tensor, out: Tensor) -> Tensor:
        """As `base`."""
        return self.base.source.read(self.base.places[places], out)

    def finish(self, x: Tensor, places: Tensor) -> Tensor:
        """`x` as `base` has it, edited."""
        return self.edit(self.base.source.finish(x, self.base.places[places]), places)


@dataclass(frozen=True, eq=False)
class Pixels:
    """The images at `places` (N,) of `source`, on `device` once they are read."""

    source: Source
    places: Tensor  # int64, on the CPU
    device: torch.device = CPU
    dtype: torch.dtype = field(default=torch.uint8, init=False)
    ndim: int = field(default=4, init=False)

    def __len__(self) -> int:
        return len(self.places)

    @property
    def shape(self) -> torch.Size:
        """(N, C, H, W)."""
        return torch.Size((len(self.places), *self.source.shape[1:]))

    @property
    def is_cuda(self) -> bool:
        """Whether batches go to a GPU."""
        return self.device.type == "cuda"

    @property
    def is_meta(self) -> bool:
        """False: these are real bytes."""
        return False

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """Copies of the images at `index`: a slice, places (n,), or a mask (N,)."""
        places = self.places[index.cpu() if isinstance(index, Tensor) else index]
        return self._finished(self.source.read(places, self._buffer(len(places))), places)

    def index_select(self, axis: int, index: Tensor) -> Tensor:
        """Copies of the images at `index` (n,); `axis` is 0."""
        return self[index]

    def split(self, size: int) -> Iterator[Tensor]:
        """All images in their order, `size` at a time."""
        return self.batches(torch.arange(len(self)).split(size))

    def batches(self, indices: Iterable[Tensor]) -> Iterator[Tensor]:
        """The images at each of `indices` in turn; a thread reads the next ones meanwhile."""
        waiting: deque[tuple[Tensor, Future[Tensor]]] = deque()
        with ThreadPoolExecutor(1, "pixels") as reader:
            for index in indices:
                places = self.places[index.cpu()]
                # the buffer is this thread's: glibc keeps what each thread frees for that thread alone
                waiting.append((places, reader.submit(self.source.read, places, self._buffer(len(places)))))
                if len(waiting) > AHEAD:
                    yield self._next(waiting)
            while waiting:
                yield self._next(waiting)

    def subset(self, index: Tensor) -> "Pixels":
        """Those at `index` (places or a mask), not read yet."""
        return replace(self, places=self.places[index.cpu()])

    def to(self, device: str | torch.device) -> "Pixels":
        """The same, to be copied to `device`."""
        return replace(self, device=torch.device(device))

    def cpu(self) -> "Pixels":
        """The same, to stay on the CPU."""
        return self.to(CPU)

    def numel(self) -> int:
        """Bytes of all images."""
        return self.shape.numel()

    def _next(self, waiting: deque[tuple[Tensor, "Future[Tensor]"]]) -> Tensor:
        places, read = waiting.popleft()
        return self._finished(read.result(), places)

    def _buffer(self, n: int) -> Tensor:
        """Room for `n` images, in page-locked memory where they go to a GPU."""
        with torch.inference_mode(False):  # a mode of this thread, and the reader writes to it
            return torch.empty((n, *self.source.shape[1:]), dtype=torch.uint8, pin_memory=self.is_cuda)

    def _finished(self, x: Tensor, places: Tensor) -> Tensor:
        return self.source.finish(x.to(self.device, non_blocking=True), places)


def stands_for(pixels: Pixels) -> Tensor:
    """`pixels` as the tensor that they stand for in `Images`."""
    return cast(Tensor, pixels)


def is_streamed(x: Tensor) -> bool:
    """Whether Pixels stand for `x`."""
    return isinstance(cast(object, x), Pixels)


def as_pixels(x: Tensor) -> Pixels:
    """`x` (N, C, H, W) uint8 as Pixels, which it may be already."""
    given = cast(object, x)
    return given if isinstance(given, Pixels) else Pixels(Stored(x), torch.arange(len(x)))


def part_of(x: Tensor, index: Tensor) -> Tensor:
    """The images at `index` of `x`; of Pixels not read yet."""
    return stands_for(as_pixels(x).subset(index)) if is_streamed(x) else x[index]


def batches_of(x: Tensor, indices: Iterable[Tensor]) -> Iterator[Tensor]:
    """`x[index]` of each of `indices` in turn; of Pixels the next are read meanwhile."""
    return as_pixels(x).batches(indices) if is_streamed(x) else (x[index] for index in indices)
