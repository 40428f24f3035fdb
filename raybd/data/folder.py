"""Image files in one folder for each class."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from raybd.data.cache import FOLDER as CACHE
from raybd.data.reader import Array, RawData, shorten, stamp_of, validated
from raybd.data.split import stratified
from raybd.errors import InputError
from raybd.seeds import stream

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp")
TEST_FRACTION = 0.2  # of each class, where the folder has no test split of its own
THREADS = 4

Tree = dict[str, list[Path]]  # class name to its image files, both sorted


@dataclass(frozen=True)
class Folder:
    """PATH/train/CLASS/*.png and PATH/test/CLASS/*.png, or PATH/CLASS/*.png alone.

    The latter is split once and for all: a fifth of each class, at least 1 image, is for testing.
    Classes are numbered as their names sort as text. Images are of 1 channel if every one of them is
    grey (modes 1, L, LA, and 16 bits, of which the upper 8 are kept), else RGB; transparency is dropped.
    """

    def stamp(self, where: Path) -> str:
        """Of the names, sizes and times of all image files."""
        trees = _trees(where)
        return stamp_of((path for tree in trees for paths in tree.values() for path in paths), where)

    def read(self, where: Path) -> RawData:
        """All images of the folder `where`."""
        trees = _trees(where)
        classes = list(trees[0])
        files = [path for tree in trees for paths in tree.values() for path in paths]
        y = np.array([classes.index(name) for tree in trees for name in tree for _ in tree[name]])
        x = _decode_all(where, files)
        test = _test_mask(trees, y)
        arrays = {"x_train": x[~test], "y_train": y[~test], "x_test": x[test], "y_test": y[test]}
        return validated(f"folder:{where}", arrays, classes)


def _test_mask(trees: Sequence[Tree], y: Array) -> Array:
    if len(trees) == 2:
        return np.arange(len(y)) >= sum(len(paths) for paths in trees[0].values())
    mask: Array = stratified(torch.from_numpy(y), TEST_FRACTION, stream(0, "test split")).numpy()
    return mask


def _trees(where: Path) -> list[Tree]:
    """The files of the two splits, or of the one folder that is to be split.

    Raises:
        InputError: with every problem that the names show.
    """
    if not os.path.isdir(where):  # noqa: PTH112 - Path's raises where a name is too long
        raise InputError(f"folder:{where}: there is no such folder")
    splits = [where / split for split in ("train", "test") if (where / split).is_dir()]
    if len(splits) == 1:
        raise InputError(f"folder:{where}: there is {splits[0].name} alone; have train and test, or neither")
    try:
        trees = [_tree(split) for split in splits or [where]]
    except OSError as error:  # a folder that may not be read, or that goes while it is
        raise InputError(f"folder:{where}: {error.filename} cannot be read: {error.strerror}") from error
    if problems := _tree_problems(trees, [split.name for split in splits] or ["it"]):
        raise InputError(f"folder:{where}: {problem}" for problem in problems)
    return trees


def _tree(folder: Path) -> Tree:
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name != CACHE and p.name[0] != ".")
    return {name: sorted(p for p in (folder / name).iterdir() if _is_image(p)) for name in names}


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _tree_problems(trees: Sequence[Tree], names: Sequence[str]) -> list[str]:
    problems = []
    if len(trees[0]) < 2:
        found = shorten(trees[0]) or "none"
        problems.append(f"at least 2 classes, each a folder of images, are needed: {names[0]} has {found}")
    for tree, split in zip(trees, names, strict=True):
        if empty := [name for name, paths in tree.items() if not paths]:
            problems.append(f"no images ({', '.join(SUFFIXES)}) in {split} for {shorten(empty)}")
    if extra := sorted(set(trees[-1]) - set(trees[0])):
        problems.append(f"classes in test that are not in train: {shorten(extra)}")
    if len(trees) == 1 and (single := [name for name, paths in trees[0].items() if len(paths) == 1]):
        problems.append(f"1 image only, so none for one of train and test: {shorten(single)}")
    return problems


def _decode_all(where: Path, files: Sequence[Path]) -> Array:
    """(N, C, H, W) uint8."""
    with ThreadPoolExecutor(THREADS) as pool:
        images = list(pool.map(_decode, files))
    if broken := [path.relative_to(where) for path, image in zip(files, images, strict=True) if image is None]:
        raise InputError(f"folder:{where}: {len(broken)} broken images: {shorten(broken, most=5)}")
    pixels = [image for image in images if image is not None]
    _check_sizes(where, files, pixels)
    if all(image.ndim == 2 for image in pixels):
        return np.stack(pixels)[:, None]
    rgb = [np.stack([image] * 3, axis=2) if image.ndim == 2 else image for image in pixels]
    return np.stack(rgb).transpose(0, 3, 1, 2)


def _check_sizes(where: Path, files: Sequence[Path], images: Sequence[Array]) -> None:
    first = images[0].shape[:2]
    for path, image in zip(files, images, strict=True):
        if image.shape[:2] != first:
            one, other = (f"{w}x{h}" for h, w in (first, image.shape[:2]))
            raise InputError(
                f"folder:{where}: images of different sizes: {files[0].relative_to(where)} is {one}, "
                f"{path.relative_to(where)} is {other}; resize them all to one size beforehand"
            )


def _decode(path: Path) -> Array | None:
    """(H, W) uint8 of a grey image, (H, W, 3) of any other, None of what is no image."""
    from PIL import Image

    if not path.is_file():  # a link to nothing, or a pipe, which would be waited for
        return None
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):
                return (np.array(image, dtype=np.int64) >> 8).clip(0, 255).astype(np.uint8)
            return np.array(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"), dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # all that Pillow's decoders say
        return None
