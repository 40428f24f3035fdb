"""A cache on disk: each entry is computed by one process while the others wait, and verified when it is loaded."""

import logging
import zipfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from raybd.pixels import is_streamed
from raybd.utils.files import write_atomically
from raybd.utils.locks import lock

PART = 1024  # images of a set that is streamed, hashed at a time
log = logging.getLogger(__name__)
Value = TypeVar("Value")


def load_tensors(path: Path, mmap: bool = False) -> Any:
    """What `torch.save` wrote to `path`, on the CPU, after its checksums were verified; tensors and plain values only.

    With `mmap`, tensors are copy-on-write maps of the file.

    Raises:
        Exception: of any kind, by what is broken in the file.
    """
    verify_checksums(path, tensors=not mmap)
    return torch.load(path, mmap=mmap, map_location="cpu", weights_only=True)


def verify_checksums(path: Path, tensors: bool = True) -> None:
    """Read the file that `torch.save` wrote to `path` against its checksums, at which PyTorch itself does not look.

    Without `tensors` their bytes are left out: a file that is mapped into memory must not be read whole at each load.
    That it has its full length, and that shapes and names are those written, is verified all the same.

    Raises:
        ValueError, OSError, zipfile.BadZipFile: the file is damaged, or there is none.
    """
    with zipfile.ZipFile(path) as file:
        for name in file.namelist():
            if tensors or "/data/" not in name:
                with file.open(name) as part:
                    while part.read(2**20):
                        pass


def compute_once(
    path: Path,
    compute: Callable[[], Value],
    *,
    load: Callable[[Path], Value | None] = load_tensors,
    save: Callable[[Value, Path], object] = torch.save,
    heartbeat: Callable[[], None] = lambda: None,
    resume_files: Iterable[Path] = (),
) -> Value:
    """The entry at `path`, computed and saved there if it is missing.

    One process computes under a file lock; the others wait and call `heartbeat`, and one of them takes over if it
    dies. An entry on which `load` raises is computed anew, with a warning; one for which it returns None (out of date)
    without. Where the folder cannot be written to, the value is computed for this caller alone, with a warning.

    Args:
        path: one file for each entry, its lock beside it.
        compute: returns the value; its exceptions go to the caller.
        load: reads the value that `save` has written to a path.
        save: writes the value to a path, which is then renamed to `path`.
        heartbeat: called while another process computes.
        resume_files: checkpoints of `compute`, deleted once the entry is saved.
    """
    if (found := load_entry(path, load)) is not None:
        return found
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock(path.with_name(f"{path.name}.lock"), heartbeat))
        except OSError as error:
            log.warning("the cache %s cannot be written to (%s): computed for this process alone", path.parent, error)
            return compute()
        if (found := load_entry(path, load, warn=True)) is None:
            found = compute()
            _save(path, partial(save, found), resume_files)
        return found


def load_entry(path: Path, load: Callable[[Path], Value | None], warn: bool = False) -> Value | None:
    """What `load` reads at `path`; None where there is no file or a broken one."""
    try:
        return load(path) if path.exists() else None
    except Exception as error:  # noqa: BLE001 - a broken file raises whatever its bytes suggest
        if warn:
            log.warning("the cache entry %s cannot be read (%s): it is computed anew", path, error)
        return None


def _save(path: Path, save: Callable[[Path], object], resume_files: Iterable[Path]) -> None:
    try:
        write_atomically(path, save)
        for file in resume_files:
            file.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:  # PyTorch raises RuntimeError where the disk is full
        log.warning("the cache entry %s cannot be written (%s)", path, error)


def content_hash(*parts: str | bytes | Tensor | dict[str, Tensor]) -> str:
    """16 hex digits of SHA-256 of texts and bytes, and of shapes, types and bytes of tensors, in this order."""
    digest = sha256()
    for part in parts:
        _add(digest, part)
    return digest.hexdigest()[:16]


def _add(digest: Any, value: str | bytes | Tensor | dict[str, Tensor]) -> None:
    if isinstance(value, dict):
        for name, tensor in value.items():
            _add(digest, name)
            _add(digest, tensor)
    elif isinstance(value, str | bytes):
        digest.update(value.encode() if isinstance(value, str) else value)
    else:
        digest.update(f"{tuple(value.shape)} {value.dtype}".encode())
        for part in value.split(PART) if is_streamed(value) else [value]:
            digest.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
