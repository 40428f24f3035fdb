"""Layouts in which data are written for a user's scripts: a line in LAYOUTS is all that a new one needs."""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raybd.errors import InputError
from raybd.types import Images
from raybd.utils.files import expanded

Array = NDArray[Any]
Write = Callable[[Path, Images, Images, Sequence[str]], "Order"]
Order = list[int]  # of the images to predict: the numbers that they had, in the order in which the layout lists them


def write_npz(where: Path, train: Images, test: Images, classes: Sequence[str], axes: str = "") -> Order:
    """`x_train`, `y_train`, `x_test`, `y_test`, `classes`; images (N, H, W), or (N, H, W, C) with colours."""
    arrays = {"x_train": _pixels(train, axes), "y_train": train.y.numpy()}
    arrays |= {"x_test": _pixels(test, axes), "y_test": test.y.numpy(), "classes": np.array(list(classes))}
    with where.open("wb") as file:  # of a path without its suffix NumPy makes another
        np.savez(file, allow_pickle=False, **arrays)
    return list(range(len(test)))


def write_npz_last(where: Path, train: Images, test: Images, classes: Sequence[str]) -> Order:
    """The same with images (N, H, W, C), C being 1 where they are grey."""
    return write_npz(where, train, test, classes, "last")


def write_npz_first(where: Path, train: Images, test: Images, classes: Sequence[str]) -> Order:
    """The same with images (N, C, H, W)."""
    return write_npz(where, train, test, classes, "first")


def write_folder(
    where: Path, train: Images, test: Images, classes: Sequence[str], halves: tuple[str, ...] = ("train", "test")
) -> Order:
    """PATH/train/CLASS/*.png and PATH/test/CLASS/*.png; listed by class and then by file name."""
    for half, images in zip(halves, (train, test), strict=True):
        _write_images(where / half, images, classes)
    return _by_class(test, classes)


def write_folder_val(where: Path, train: Images, test: Images, classes: Sequence[str]) -> Order:
    """The same, with the test images in PATH/val."""
    return write_folder(where, train, test, classes, ("train", "val"))


def write_csv(where: Path, train: Images, test: Images, classes: Sequence[str]) -> Order:
    """PATH/train.csv and PATH/test.csv: a line an image, the number of its class and its pixels row by row."""
    where.mkdir(parents=True)
    for name, images in (("train", train), ("test", test)):
        rows = np.column_stack([images.y.numpy(), _pixels(images, "last").reshape(len(images), -1)])
        (where / f"{name}.csv").write_text("".join(f"{','.join(map(str, row))}\n" for row in rows.tolist()))
    return list(range(len(test)))


def write_mnist(where: Path, train: Images, test: Images, classes: Sequence[str], kind: str = "MNIST") -> Order:
    """The files of torchvision.datasets.MNIST(PATH), of grey images of any size.

    Raises:
        InputError: the images have colours.
    """
    if train.shape[0] != 1:
        raise InputError(f"layout {kind.lower()} is of grey images, and these have {train.shape[0]} channels")
    raw = where / kind / "raw"
    raw.mkdir(parents=True)
    for name, images in (("train", train), ("t10k", test)):
        _write_idx(raw / f"{name}-images-idx3-ubyte", images.x[:, 0].numpy())
        _write_idx(raw / f"{name}-labels-idx1-ubyte", images.y.numpy().astype(np.uint8))
    return list(range(len(test)))


def write_fashion_mnist(where: Path, train: Images, test: Images, classes: Sequence[str]) -> Order:
    """The files of torchvision.datasets.FashionMNIST(PATH)."""
    return write_mnist(where, train, test, classes, "FashionMNIST")


LAYOUTS: dict[str, Write] = {
    "npz": write_npz,
    "npz_channels_last": write_npz_last,
    "npz_channels_first": write_npz_first,
    "folder": write_folder,
    "folder_val": write_folder_val,
    "csv": write_csv,
    "mnist": write_mnist,
    "fashion_mnist": write_fashion_mnist,
}
CHECKED = ("cifar10", "cifar100", "svhn", "gtsrb")  # torchvision checks the files of most of them by checksums


def layout_of(data: str) -> str:
    """The layout that the data set `data` has on this disk; npz for one that has none of its own.

    Raises:
        InputError: raybd writes no such layout, or the file cannot be read.
    """
    kind, _, path = data.partition("[")[0].partition(":")
    if kind == "folder":
        where = expanded(path)
        return "folder_val" if (where / "val").is_dir() and not (where / "test").is_dir() else "folder"
    if kind == "npz":
        return _npz_layout(expanded(path))
    if kind in CHECKED:
        raise InputError(
            f"{data}: poisoned copies are not written in its own layout, since torchvision refuses files of other "
            f"checksums: choose --layout folder or npz, and let the commands read that"
        )
    return kind if kind in LAYOUTS else "npz"


def data_path(layout: str, folder: Path) -> Path:
    """Where the data of a trial are written: a file for npz, else a folder."""
    return folder / ("data.npz" if layout.startswith("npz") else "data")


def _npz_layout(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as file, file.open("x_train.npy") as header:
            shape = _shape(header)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"npz:{path} cannot be read: {error}") from error
    if len(shape) == 3 or shape[-1] == 3:
        return "npz"
    return "npz_channels_last" if shape[-1] == 1 else "npz_channels_first"


def _shape(header: Any) -> tuple[int, ...]:
    version = np.lib.format.read_magic(header)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape: tuple[int, ...] = read(header)[0]
    return shape


def _pixels(images: Images, axes: str) -> Array:
    x: Array = images.x.numpy()
    if axes == "first":
        return x
    return x[:, 0] if x.shape[1] == 1 and not axes else np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def _write_images(where: Path, images: Images, classes: Sequence[str]) -> None:
    for name in classes:
        (where / name).mkdir(parents=True)
    for number, (pixels, label) in enumerate(zip(_pixels(images, ""), images.y.tolist(), strict=True)):
        Image.fromarray(pixels).save(where / classes[label] / f"{number:08d}.png", compress_level=1)


def _by_class(images: Images, classes: Sequence[str]) -> Order:
    place = {name: k for k, name in enumerate(sorted(classes))}
    return sorted(range(len(images)), key=lambda i: (place[classes[int(images.y[i])]], i))


def _write_idx(path: Path, values: Array) -> None:
    """The bytes of an idx file: zeros, type 8, number of axes, their lengths (big-endian), the values."""
    head = bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(head + np.ascontiguousarray(values).tobytes())
