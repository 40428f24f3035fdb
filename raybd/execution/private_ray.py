"""Folder and environment of a private Ray, which others on the machine and in the network cannot enter."""

import atexit
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from raybd.errors import InputError
from raybd.execution.private_signals import shut_down_ray
from raybd.execution.ray_choice import LOOPBACK

PREFIX, UNFINISHED = "raybd-ray-", "raybd-new-"
LONGEST = 40  # characters of the folder's path: Ray adds 67 for its sockets, whose paths may have 107


def listen_on_loopback() -> None:
    """Let a Ray that this process starts listen on 127.0.0.1 alone: only where Ray has not been imported before.

    The one setting that does it; Ray's documentation has it for Windows and macOS, and Ray reads it everywhere.
    """
    os.environ[LOOPBACK] = "0"


def listen_to_others() -> None:
    """Undo `listen_on_loopback`, to join a Ray of other machines.

    Raises:
        InputError: Ray has been imported with it, and would know this machine as 127.0.0.1.
    """
    if os.environ.get(LOOPBACK) == "0" and "ray" in sys.modules:
        raise InputError("this process has had a Ray of its own, on 127.0.0.1: join another one in a new process")
    os.environ.pop(LOOPBACK, None)


def new_folder() -> Path:
    """A new folder of mode 0700 for a private Ray, removed when this process ends, or by a later one.

    Ray opens its own folder to all (0777), so it gets one inside this.

    Raises:
        InputError: no temporary folder has a path short enough for Ray's sockets.
    """
    bases = [os.environ.get("RAY_TMPDIR", ""), tempfile.gettempdir(), "/tmp"]
    short = [base for base in bases if base and len(f"{base}/{PREFIX}01234567") <= LONGEST and os.access(base, os.W_OK)]
    if not short:
        raise InputError(f"a private Ray needs a temporary folder with a short path: set RAY_TMPDIR (now {bases[1]!r})")
    _remove_left_over(Path(short[0]))
    folder, held = _locked_folder(short[0])
    atexit.register(_remove, folder, held)
    return folder / "r"


def _locked_folder(base: str) -> tuple[Path, FileLock]:
    """A new folder and its lock, which is held; it gets its name last, so that nobody takes it for left over."""
    made = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=base))
    held = FileLock(made / "lock")
    held.acquire()
    return made.rename(made.with_name(made.name.replace(UNFINISHED, PREFIX))), held


def _remove_left_over(base: Path) -> None:
    """Remove this user's folders whose processes were killed: nobody holds their locks."""
    for folder in _own_folders(base):
        lock = FileLock(folder / "lock")
        with contextlib.suppress(Timeout, OSError):
            lock.acquire(timeout=0)
            lock.release()
            shutil.rmtree(folder, ignore_errors=True)


def _own_folders(base: Path) -> Iterator[Path]:
    for folder in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid == os.getuid() and (folder / "lock").is_file():
                yield folder


def _remove(folder: Path, held: FileLock) -> None:
    """End this process's Ray and remove its folder, whose lock is held until then."""
    if "ray" in sys.modules:
        shut_down_ray()
    shutil.rmtree(folder, ignore_errors=True)
    held.release()
