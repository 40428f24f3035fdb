"""torchvision's data sets, read from the files under the data root, which are downloaded if they are missing."""

import http.client
import socket
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from raybd.data.cache import writable
from raybd.data.reader import SPLITS, RawData, stamp_of, validated
from raybd.data.target import MEMORY, Target
from raybd.data.torchvision_splits import Split, cifar, gtsrb, gzipped, idx, svhn
from raybd.errors import InputError, NoDataError

TIMEOUT = 20.0  # seconds without a byte, after which a download is given up
BROKEN = (OSError, RuntimeError, ValueError, KeyError, EOFError, zlib.error)
OFFLINE = (OSError, RuntimeError, EOFError, http.client.HTTPException, zipfile.BadZipFile)


@dataclass(frozen=True)
class TorchvisionSet:
    """One data set: its class in torchvision.datasets, its files, and the function that reads one split of it."""

    kind: str  # the class
    files: tuple[str, ...]  # under the root
    split: Callable[[Any, Path, str], Split]  # class, root, and "train" or "test"
    argument: Literal["train", "split"]  # the argument of the class: train=True or split="train"
    counts: Mapping[str, int] = field(default_factory=dict)  # published images of each split, where no file tells them

    def stamp(self, where: Path) -> str:
        """Of the sizes and times of the files under the root `where`, "" where none is there."""
        return stamp_of((path for path in self._paths(where).values() if path.exists()), where)

    def read(self, where: Path, target: Target = MEMORY) -> RawData:
        """The set under the root `where`, downloaded first if files are missing and the root is writable."""
        if self._missing(where):
            self._download(where)
        read = {split: self._read_split(where, split) for split in SPLITS}
        arrays = {f"x_{split}": read[split].x for split in SPLITS} | {f"y_{split}": read[split].y for split in SPLITS}
        return validated(f"{self.kind} under {where}", arrays, read["train"].classes)

    def _read_split(self, root: Path, split: str) -> Split:
        try:
            read = self.split(self._cls(), root, split)
        except BROKEN as error:
            raise InputError(
                f"{self.kind}: files under {root} are corrupt or not the originals ({error}); they are "
                f"{', '.join(self.files)}. Delete them and get them again: {self._download_command(root)}. Pixels of "
                "your own are read from npz:PATH or folder:PATH"
            ) from error
        if len(read.y) != self.counts.get(split, len(read.y)):
            raise InputError(
                f"{self.kind}: {len(read.y)} {split} images under {root}, of {self.counts[split]} that were published: "
                f"is its archive extracted whole? Get it again: {self._download_command(root)}. A part of a set is "
                "read from folder:PATH"
            )
        return read

    def _cls(self) -> Any:
        from torchvision import datasets

        return getattr(datasets, self.kind)

    def _arguments(self) -> list[dict[str, str | bool]]:
        return [{self.argument: split == "train" if self.argument == "train" else split} for split in SPLITS]

    def _paths(self, root: Path) -> dict[str, Path]:
        return {file: gzipped(root / file) for file in self.files}

    def _missing(self, root: Path) -> list[str]:
        return [file for file, path in self._paths(root).items() if not path.exists()]

    def _download(self, root: Path) -> None:
        reason = "the root cannot be written to, so no download was tried"
        if writable(root):
            try:
                with _timeout(TIMEOUT):
                    for arguments in self._arguments():
                        self._cls()(root, **arguments, download=True)
                reason = "the download left them out"
            except OFFLINE as error:
                reason = f"the download failed ({error})"
        if missing := self._missing(root):
            raise NoDataError(
                f"{self.kind}: missing under the data root {root}: {', '.join(missing)}; {reason}. "
                f"Where there is a network, run {self._download_command(root)}, and copy the files here; "
                "RAYBD_DATA names another root"
            )

    def _download_command(self, root: Path) -> str:
        flags = [f"{key}={value!r}" for arguments in self._arguments() for key, value in arguments.items()]
        calls = "; ".join(f"d.{self.kind}({str(root)!r}, {flag}, download=True)" for flag in flags)
        return f'python -c "import torchvision.datasets as d; {calls}"'


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """A time limit on connections: torchvision sets none, and a dead one would hang for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _raw(kind: str) -> tuple[str, ...]:
    parts = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return tuple(f"{kind}/raw/{part}-ubyte" for part in parts)


def _under(folder: str, *files: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{file}" for file in files)


BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")
SIGNS = ("GTSRB/Training", "GTSRB/Final_Test/Images", "GT-final_test.csv")

MNIST = TorchvisionSet("MNIST", _raw("MNIST"), idx, "train")
FASHION_MNIST = TorchvisionSet("FashionMNIST", _raw("FashionMNIST"), idx, "train")
CIFAR10 = TorchvisionSet("CIFAR10", _under("cifar-10-batches-py", *BATCHES), cifar, "train")
CIFAR100 = TorchvisionSet("CIFAR100", _under("cifar-100-python", "train", "test", "meta"), cifar, "train")
GTSRB = TorchvisionSet("GTSRB", _under("gtsrb", *SIGNS), gtsrb, "split", {"train": 26_640, "test": 12_630})
SVHN = TorchvisionSet("SVHN", ("train_32x32.mat", "test_32x32.mat"), svhn, "split")
