"""The training and test splits of torchvision's data sets, read from the files under the data root."""

import gzip
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from raybd.data.reader import Array

GTSRB_SIZE = (32, 32)
THREADS = 4
DIGITS = tuple("0123456789")
CLOTHES = "T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle_boot"
NAMES = {"MNIST": DIGITS, "FashionMNIST": tuple(name.replace("_", " ") for name in CLOTHES.split())}


class Split(NamedTuple):
    """`x` (N, C, H, W) uint8, `y` (N,) integers, and the names of the classes."""

    x: Array
    y: Array
    classes: tuple[str, ...]


def idx(cls: Any, root: Path, split: str) -> Split:
    """MNIST and sets in its format, from files that may still be gzipped (torchvision would unpack them)."""
    raw = root / cls.__name__ / "raw"
    part = "train" if split == "train" else "t10k"
    x, y = (_idx(gzipped(raw / f"{part}-{what}-ubyte")) for what in ("images-idx3", "labels-idx1"))
    return Split(x[:, None], y, NAMES[cls.__name__])


def gzipped(path: Path) -> Path:
    """`path`, or the same with .gz where that alone is there."""
    gz = path.with_name(f"{path.name}.gz")
    return gz if gz.exists() and not path.exists() else path


def cifar(cls: Any, root: Path, split: str) -> Split:
    """CIFAR-10 or CIFAR-100 with its fine labels, after torchvision has compared their MD5."""
    data = cls(root, train=split == "train")
    return Split(data.data.transpose(0, 3, 1, 2), np.array(data.targets), tuple(data.classes))


def svhn(cls: Any, root: Path, split: str) -> Split:
    """SVHN, after torchvision has compared its MD5; the digit 0 has label 0."""
    data = cls(root, split=split)
    return Split(data.data, data.labels, DIGITS)


def gtsrb(cls: Any, root: Path, split: str) -> Split:
    """GTSRB's 43 traffic signs, whose sizes differ, all made `GTSRB_SIZE`: bilinear with antialiasing."""
    data = cls(root, split=split, transform=_resize)
    with ThreadPoolExecutor(THREADS) as pool:
        x, y = zip(*pool.map(data.__getitem__, range(len(data))), strict=True)
    return Split(np.stack(x).transpose(0, 3, 1, 2), np.array(y), tuple(str(sign) for sign in range(43)))


def _resize(image: Any) -> Array:
    from PIL import Image

    return np.asarray(image.resize(GTSRB_SIZE, Image.Resampling.BILINEAR))


def _idx(path: Path) -> Array:
    """The bytes of an idx file: zeros, type 8, number of axes, their lengths (big-endian), the values."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    axes = 3 if "idx3" in path.name else 1
    if content[:4] != bytes((0, 0, 8, axes)):
        raise ValueError(f"{path.name} is not an idx file of {axes} axes of bytes")
    shape = np.frombuffer(content, ">u4", count=axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
