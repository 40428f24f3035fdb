"""Atomic writing of files. Imports nothing of raybd."""

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file under a temporary name beside `path` and rename it: no reader sees a part of it.

    Raises:
        OSError: the file cannot be written; what was there is still there.
    """
    part = path.with_name(f"{path.name}.{uuid4().hex}.part")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically.

    Raises:
        OSError: as `write_atomically`.
    """
    write_atomically(path, lambda part: part.write_text(text))
