"""Each data set converted once to one file, which every trial on a node maps into memory and so shares."""

import hashlib
import logging
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from raybd.data.describe import describe
from raybd.data.reader import Reader
from raybd.data.target import Target
from raybd.types import Data, Images
from raybd.utils.cache import compute_once, load_entry, load_tensors

log = logging.getLogger(__name__)
FOLDER = "raybd-cache"
DEFAULT_ROOT = Path("~/.cache/raybd/data")
FORMAT = 1  # of the files; another number makes every older file be rebuilt


def cached(name: str, reader: Reader, where: Path, root: Path, resize: int = 0) -> Data:
    """The data set `name` that `reader` reads at `where`, from its cache file if that is not older than the source.

    Images are made `resize` x `resize` pixels unless that is 0, and kept so; a large set is decoded into scratch files.
    Cached tensors are copy-on-write maps of the file: writing to them changes neither the file nor another process.
    A cache file whose source is gone is used as it stands; one whose source has changed, or that is broken, is
    rebuilt by one process while the others wait. Checksums of the pixels are not verified, since that would read the
    whole file at each load; those of all else are.
    """
    stamp = reader.stamp(where)
    load = partial(_load, name, stamp)
    files = cache_files(name, where, root, resize)
    if found := next(filter(None, (load_entry(file, load) for file in files)), None):
        return found
    target = next((file for file in files if writable(file.parent)), None)
    if target is None:
        folders = " nor ".join(str(file.parent) for file in files)
        log.warning("%s: no cache, for neither %s can be written to", name, folders)
        return _read(name, reader, where, Target(resize))

    def save(data: Data, path: Path) -> None:
        # no source before the reading: the reader has fetched it
        torch.save(_entry(data, stamp or reader.stamp(where)), path)

    read = partial(_read, name, reader, where, Target(resize, target.parent))
    built = compute_once(target, read, load=load, save=save)
    return load_entry(target, load) or built  # mapped: the copy in this process's memory can go


def cache_files(name: str, where: Path, root: Path, resize: int = 0) -> list[Path]:
    """Where the cache of `name` may lie: under the root, or under the user's own if that is read-only."""
    kind, size = _file_kind(name, where == root), f"-{resize}px" if resize else ""
    keyed = f"{kind}-{hashlib.sha256(str(where.resolve()).encode()).hexdigest()[:12]}{size}.pt"
    own = root / FOLDER / (f"{kind}{size}.pt" if where == root else keyed)
    return [own, DEFAULT_ROOT.expanduser() / FOLDER / keyed]


def _file_kind(name: str, under_root: bool) -> str:
    """What the name of the file begins with: the kind of a data set; of one's own with settings, also a hash of it."""
    kind, colon, _ = name.partition(":")
    return f"{kind}-{hashlib.sha256(name.encode()).hexdigest()[:12]}" if colon and under_root else kind


def _read(name: str, reader: Reader, where: Path, target: Target) -> Data:
    raw = reader.read(where, target)
    train, test = (Images(torch.from_numpy(target.resized(s.x.numpy())), s.y) for s in (raw.train, raw.test))
    return describe(name, replace(raw, train=train, test=test))


def writable(folder: Path) -> bool:
    """Whether files can be made in `folder`, or `folder` itself can be."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    # the system lets an administrator, as whom most containers run, write to what is marked read-only
    marked = not nearest.stat().st_mode & 0o222
    return nearest.is_dir() and not marked and os.access(nearest, os.W_OK)


def _load(name: str, stamp: str, file: Path) -> Data | None:
    """The data set in `file`; None if it is of another source or format."""
    entry = load_tensors(file, mmap=True)
    if entry["format"] != FORMAT or (stamp and entry["stamp"] != stamp):
        return None
    train, test = (Images(entry[f"x_{split}"], entry[f"y_{split}"]) for split in ("train", "test"))
    classes, mean, std = (tuple(entry[key]) for key in ("classes", "mean", "std"))
    return Data(name, train, test, classes, entry["fingerprint"], mean, std)


def _entry(data: Data, stamp: str) -> dict[str, object]:
    return {
        "format": FORMAT,
        "stamp": stamp,
        "classes": list(data.classes),
        "fingerprint": data.fingerprint,
        "mean": list(data.mean),
        "std": list(data.std),
        "x_train": data.train.x,
        "y_train": data.train.y,
        "x_test": data.test.x,
        "y_test": data.test.y,
    }
