"""Paths as users write them, and atomic writing of files."""

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from raybd.errors import InputError


def expanded(path: str | Path) -> Path:
    """`path` as an absolute one, with the home folder for ~.

    Raises:
        InputError: it is another user's home, and there is no such user.
    """
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise InputError(f"{path}: there is no such user's home folder") from error


def read_content(path: str | Path, what: str = "file") -> bytes:
    """The bytes of the file `path`.

    Raises:
        InputError: there is no such file, or it cannot be read; links to devices and pipes are none.
    """
    file = expanded(path)
    try:
        if not file.is_file():
            raise InputError(f"there is no {what} at {path}")
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


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
