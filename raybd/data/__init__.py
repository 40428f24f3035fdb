"""Image data by name: a line in `DATASETS` is all that a new source needs."""

import os
from dataclasses import replace
from pathlib import Path

from raybd.data.cache import DEFAULT_ROOT, cached
from raybd.data.digits import Digits
from raybd.data.folder import Folder
from raybd.data.npz import Npz
from raybd.data.reader import Reader
from raybd.data.source import DataSource
from raybd.data.split import split_validation
from raybd.data.subset import parse, restrict
from raybd.data.torchvision_sets import CIFAR10, CIFAR100, FASHION_MNIST, GTSRB, MNIST, SVHN
from raybd.errors import InputError
from raybd.plugins import Table, split, unknown
from raybd.plugins import parse as parse_plugin
from raybd.plugins.own import entry_points, is_named
from raybd.types import Data, Origin
from raybd.utils.files import expanded

__all__ = [
    "AUGMENTATION",
    "DATASETS",
    "DataSource",
    "augmentation",
    "check_name",
    "data_root",
    "is_own",
    "load",
    "split_validation",
]

DATASETS: dict[str, Reader] = {
    "digits": Digits(),
    "mnist": MNIST,
    "fashion_mnist": FASHION_MNIST,
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "gtsrb": GTSRB,
    "svhn": SVHN,
    "npz": Npz(),
    "folder": Folder(),
}
OWN = Table("data set", DataSource, {})  # type: ignore[type-abstract]  # MODULE:CLASS and those of entry points
FROM_PATH = ("npz", "folder")

AUGMENTATION: dict[str, tuple[int, bool]] = {  # padding before a random crop (pixels), horizontal flips
    "digits": (0, False),
    "mnist": (0, False),
    "fashion_mnist": (0, False),
    "cifar10": (4, True),
    "cifar100": (4, True),
    "gtsrb": (4, False),
    "svhn": (4, False),
}


def load(name: str, root: str | Path | None = None, resize: int = 0) -> Data:
    """The data set `name`: one of `DATASETS`, `npz:PATH` or `folder:PATH`, or a `DataSource` as MODULE:CLASS:SETTINGS
    or by the name of an entry point; or a subset of it, as `mnist[7,1]`.

    A relative PATH starts at the working directory. Sets are converted once and then mapped into memory from a
    cache file (see `raybd.data.cache`). With `resize` the images are made squares of so many pixels first: the shorter
    side is scaled to it, the middle of the longer one is kept.

    Raises:
        InputError: the name is unknown, or the files are corrupt or no data set.
        NoDataError: a known data set's files are missing.
    """
    if problems := check_name(name):
        raise InputError(problems)
    whole, subset = parse(name)
    kind, path = split("data set", DATASETS, whole)
    home, own = data_root(root), is_own(whole)
    reader: Reader = parse_plugin("data set", OWN, whole) if own else DATASETS[kind]
    data = cached(whole, reader, expanded(path) if path and not own else home, home, resize)
    return replace(restrict(data, subset) if subset else data, origin=Origin(name, str(home), resize))


def check_name(name: str) -> list[str]:
    """The problems of `name`, as far as can be told without looking for files."""
    try:
        name = parse(name)[0]
    except InputError as error:
        return error.problems
    kind, colon, path = name.partition(":")
    if is_own(name):
        return _own_problems(name)
    if problems := unknown("data set", [kind], [*DATASETS, *entry_points("data set")]):
        return problems
    if kind in FROM_PATH and not path:
        return [f"data set {kind} needs a path: {kind}:PATH, not {name!r}"]
    if kind not in FROM_PATH and colon:
        return [f"data set {kind} takes no path: {kind}, not {name!r}; it is read from the data root"]
    return []


def is_own(name: str) -> bool:
    """Whether the whole data set `name` is none of raybd's own: MODULE:CLASS, or of an entry point."""
    kind = split("data set", DATASETS, name)[0]
    return kind not in DATASETS and (":" in kind or is_named("data set", kind))


def _own_problems(name: str) -> list[str]:
    try:
        parse_plugin("data set", OWN, name)
    except InputError as error:
        return error.problems
    return []


def data_root(root: str | Path | None = None) -> Path:
    """`root`, else the environment's RAYBD_DATA, else ~/.cache/raybd/data, as an absolute path."""
    return expanded(root or os.environ.get("RAYBD_DATA") or DEFAULT_ROOT)


def augmentation(name: str) -> tuple[int, bool]:
    """Crop padding (pixels) and flips as is customary for `name`; none of either if no custom is known."""
    return AUGMENTATION.get(parse(name)[0], (0, False))
