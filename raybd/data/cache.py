"""Each set converted once to one file, which every trial on a node maps into memory and so shares."""

import hashlib
import os
import pickle
import uuid
import warnings
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from raybd.data.describe import describe
from raybd.data.reader import Reader
from raybd.types import Data, Images

FOLDER = "raybd-cache"
DEFAULT_ROOT = Path("~/.cache/raybd/data")
FORMAT = 1  # of the files; another number makes every older file be rebuilt
BROKEN = (OSError, RuntimeError, ValueError, TypeError, KeyError, EOFError, pickle.UnpicklingError)


def cached(name: str, reader: Reader, where: Path, root: Path) -> Data:
    """The data set `name` that `reader` reads at `where`, from its cache file if that is still true to it.

    Cached tensors are copy-on-write maps of the file: writing to them changes neither the file nor
    another process. A cache file whose source is gone is taken as it stands; one whose source has
    changed, or that cannot be read, is rebuilt by one process while the others wait.
    """
    stamp = reader.stamp(where)
    files = cache_files(name, where, root)
    if found := _first(files, name, stamp):
        return found
    target = next((file for file in files if writable(file.parent)), None)
    if target is None:
        warnings.warn(f"{name}: no cache, for neither {_folders(files)} can be written to", stacklevel=3)
        return describe(name, reader.read(where))
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock", mode=0o666):
        return _first(files, name, stamp) or _build(target, name, reader, where, stamp)


def cache_files(name: str, where: Path, root: Path) -> list[Path]:
    """Where the cache of `name` may lie: under the root, or under the user's own if that is read-only."""
    kind = name.partition(":")[0]
    keyed = f"{kind}-{hashlib.sha256(str(where.resolve()).encode()).hexdigest()[:12]}.pt"
    own = root / FOLDER / (f"{kind}.pt" if where == root else keyed)
    return [own, DEFAULT_ROOT.expanduser() / FOLDER / keyed]


def writable(folder: Path) -> bool:
    """Whether files can be made in `folder`, or `folder` itself can be."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    # the system lets an administrator, as whom most containers run, write to what is marked read-only
    marked = not nearest.stat().st_mode & 0o222
    return nearest.is_dir() and not marked and os.access(nearest, os.W_OK)


def _folders(files: list[Path]) -> str:
    return " nor ".join(str(file.parent) for file in files)


def _first(files: list[Path], name: str, stamp: str) -> Data | None:
    found = (_get(file, name, stamp) for file in files if file.is_file())
    return next((data for data in found if data), None)


def _get(file: Path, name: str, stamp: str) -> Data | None:
    """The data set in `file`; None where it is of another source or format, or broken."""
    try:
        entry: dict[str, Any] = torch.load(file, mmap=True, weights_only=True, map_location="cpu")
        if entry["format"] != FORMAT or (stamp and entry["stamp"] != stamp):
            return None
        train, test = (Images(entry[f"x_{half}"], entry[f"y_{half}"]) for half in ("train", "test"))
        classes, mean, std = (tuple(entry[key]) for key in ("classes", "mean", "std"))
        return Data(name, train, test, classes, entry["fingerprint"], mean, std)
    except BROKEN as error:
        reason = (str(error).splitlines() or [""])[0]
        warnings.warn(f"{name}: rebuilding the broken cache file {file} ({reason})", stacklevel=2)
        return None


def _build(file: Path, name: str, reader: Reader, where: Path, stamp: str) -> Data:
    data = describe(name, reader.read(where))
    # no source before the reading: the reader has fetched it
    if not _put(file, data, stamp or reader.stamp(where) or ""):
        return data
    return _get(file, name, "") or data


def _put(file: Path, data: Data, stamp: str) -> bool:
    """Write `data` under another name and rename it: nobody ever sees half a file. Whether that worked."""
    entry = {
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
    draft = file.with_name(f"{file.name}.{uuid.uuid4().hex}.tmp")
    try:
        torch.save(entry, draft)
        draft.replace(file)
    except (OSError, RuntimeError) as error:  # torch says RuntimeError where the disk is full
        warnings.warn(f"{data.name}: could not write the cache file {file} ({error})", stacklevel=2)
        draft.unlink(missing_ok=True)
        return False
    return True
