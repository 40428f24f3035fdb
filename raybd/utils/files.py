"""Paths as users write them, and atomic writing of files."""

import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


def copy_folder(source: Path, target: Path, leave_out: tuple[str, ...] = ()) -> None:
    """Copy what is in the folder `source` to `target`, of which all can be written to, though `source` may not be.

    Args:
        source: folder.
        target: folder, made if need be.
        leave_out: names, or patterns of names, of what is not copied, at any depth.

    Raises:
        OSError: something cannot be read or written.
    """
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*leave_out), dirs_exist_ok=True)
    for path in (target, *target.rglob("*")):  # which have the modes of what they are copies of
        path.chmod(path.stat().st_mode | (stat.S_IRWXU if path.is_dir() else stat.S_IRUSR | stat.S_IWUSR))


@contextmanager
def write_errors(path: str | Path) -> Iterator[None]:
    """For writing the file `path` that a user asked for.

    Raises:
        InputError: of an OSError inside, it names the file.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


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
