"""Image files in one folder for each class."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from raybd.data.cache import FOLDER as CACHE
from raybd.data.image_files import SUFFIXES, Tree, decode_splits, is_image
from raybd.data.reader import Array, RawData, shorten, stamp_of, validated
from raybd.data.split import stratified
from raybd.data.target import MEMORY, Target
from raybd.data.tiny_imagenet import class_names, is_tiny_imagenet, tiny_imagenet_trees
from raybd.errors import InputError
from raybd.seeds import stream

TEST_FRACTION = 0.2  # of each class, where the folder has no test split of its own


@dataclass(frozen=True)
class FileNames:
    """The names of a folder's image files, by split."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    drawn: bool  # whether the test images were drawn from the rest, for the folder has no split of its own


@dataclass(frozen=True)
class Folder:
    """PATH/train/CLASS/*.png and PATH/test/CLASS/*.png (or val for test), or PATH/CLASS/*.png alone; or Tiny-ImageNet.

    PATH/CLASS alone is split once and for all: a fifth of each class, at least 1 image, is for testing.
    Classes are numbered as their names sort as text. Images are of 1 channel if every one of them is
    grey (modes 1, L, LA, and 16 bits, of which the upper 8 are kept), else RGB; transparency is dropped.
    """

    def stamp(self, where: Path) -> str:
        """Of the names, sizes and times of all image files."""
        trees = _trees(where)
        return stamp_of((path for tree in trees for paths in tree.values() for path in paths), where)

    def read(self, where: Path, target: Target = MEMORY) -> RawData:
        """All images of the folder `where`, decoded a few at a time."""
        trees = _trees(where)
        classes = list(trees[0])
        files = [path for tree in trees for paths in tree.values() for path in paths]
        labels = {name: label for label, name in enumerate(classes)}
        y = np.array([labels[name] for tree in trees for name in tree for _ in tree[name]])
        test = _test_mask(trees, y)
        x_train, x_test = decode_splits(where, files, test, target)
        arrays = {"x_train": x_train, "y_train": y[~test], "x_test": x_test, "y_test": y[test]}
        return validated(f"folder:{where}", arrays, class_names(where, classes))

    def file_names(self, where: Path) -> FileNames:
        """The files of the two splits by their paths below `where`, in the order of the images."""
        trees = _trees(where)
        files = [path.relative_to(where).as_posix() for tree in trees for paths in tree.values() for path in paths]
        labels = [label for tree in trees for label, name in enumerate(trees[0]) for _ in tree[name]]
        test = _test_mask(trees, np.array(labels))
        train_files, test_files = ([files[i] for i in np.flatnonzero(mask)] for mask in (~test, test))
        return FileNames(tuple(train_files), tuple(test_files), drawn=len(trees) == 1)


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
    if is_tiny_imagenet(where):
        return tiny_imagenet_trees(where)
    splits = [where / split for split in ("train", "test") if (where / split).is_dir()]
    if [split.name for split in splits] == ["train"] and (where / "val").is_dir():
        splits.append(where / "val")
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
    return {name: sorted(p for p in (folder / name).iterdir() if is_image(p)) for name in names}


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
