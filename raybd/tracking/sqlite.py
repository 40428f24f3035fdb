"""Tracking stores in a SQLite file: path, creation, artifact folder."""

import atexit
import errno
import os
import shutil
import sqlite3
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import quote, unquote

from raybd.errors import InputError
from raybd.utils.locks import lock

ARTIFACTS = "mlruns"  # folder beside the file, an experiment's artifacts in a folder of its name
LOCK_TIMEOUT = 60.0  # seconds to wait for a locked file
READ_ONLY = "sqlite+pysqlite:///"  # of `sqlite:///file:PATH` MLflow makes the folder "file:" in the working folder
_copies = ExitStack()  # folders of copies of stores that may only be read
atexit.register(_copies.close)


def path_of(uri: str) -> Path | None:
    """The file of a SQLite URI, absolute; None for any other URI."""
    prefix = "sqlite:///"
    return Path(unquote(uri.removeprefix(prefix).split("?")[0])).absolute() if uri.startswith(prefix) else None


def check_database(path: Path) -> None:
    """Refuse a store's file that is no database; MLflow would try again for a minute, or write into it.

    SQLite looks: whoever else opens and closes the file takes away the locks that this process holds on it
    (sqlite.org/howtocorrupt.html, section 2.2), and another process then removes the write-ahead log under us.

    Raises:
        InputError: `path` is no file, or one of other content than SQLite's. An empty file is an empty database.
    """
    if not path.is_file() or not os.access(path, os.R_OK):
        raise InputError(f"the tracking store {path} cannot be read: it is {_kind(path)}")
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            connection.execute("PRAGMA schema_version")
    except sqlite3.OperationalError:
        return  # locked, or one that may only be read: told where it is used
    except sqlite3.DatabaseError as error:
        raise InputError(f"the tracking store sqlite:///{path} cannot be used: {error}") from error


def _kind(path: Path) -> str:
    return "a folder" if path.is_dir() else "a file that may not be read" if path.is_file() else "no file"


def prepare(uri: str) -> None:
    """Create the store of a SQLite URI, or check that it can be written to.

    It is made under another name and renamed when it is whole, by one process while others wait: MLflow makes its
    tables in many steps, and a store that is left or entered between two of them stays broken.

    Raises:
        InputError: it cannot be written to, or is no database.
    """
    path = path_of(uri)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            check_database(path)
        if not _made(path):
            with lock(path.with_name(f"{path.name}.lock")):
                _make(path)
        if not writable(path):  # SQLite itself finds out at the first change, after BEGIN IMMEDIATE
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        with closing(sqlite3.connect(path, timeout=LOCK_TIMEOUT)) as connection:
            connection.execute("PRAGMA journal_mode=wal")  # many trials write while others read
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
    except (OSError, sqlite3.OperationalError) as error:
        raise InputError(f"the tracking store {uri} is not writable: {error}") from error
    except sqlite3.DatabaseError as error:
        raise InputError(f"the tracking store {uri} cannot be used: {error}") from error


def _made(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _make(path: Path) -> None:
    """Make the tables of the store at `path`, unless another process has."""
    for left in path.parent.glob(f".{path.name}.*.new*"):  # by a process that was killed
        left.unlink(missing_ok=True)
    if _made(path):
        return
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    make_tables(new)
    for suffix in ("-wal", "-shm"):  # of a store that was deleted: SQLite would take them for the new one's
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    new.replace(path)


def make_tables(path: Path) -> None:
    """Have MLflow make its tables in the new file `path`, which takes it one or two seconds."""
    from mlflow import MlflowClient  # takes over a second to import, and a store that is read needs none

    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments(max_results=1)


def checkpoint(uri: str) -> None:
    """Write what the write-ahead log of a SQLite store holds into its file, which then can be copied alone."""
    path = path_of(uri)
    if path is not None:
        with closing(sqlite3.connect(path, timeout=LOCK_TIMEOUT)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def readable(uri: str) -> str:
    """The URI by which the store at `uri` can be read: of a SQLite file that may only be read another one.

    Such a file is opened as one that nobody changes, or, if it has a write-ahead log, copied for this process.
    """
    path = path_of(uri)
    if path is None or not path.exists() or writable(path):
        return uri
    path = path.resolve()  # beside it are the log's files, of which a link knows nothing
    if _has_log(path):
        path = _copy(path)
    return f"{READ_ONLY}file:{quote(str(path))}?mode=ro&immutable=1&uri=true"


def open_to_read(uri: str) -> sqlite3.Connection:
    """A connection to the SQLite store at `uri` that changes nothing.

    Raises:
        sqlite3.Error: it is no database, or is locked.
    """
    place = readable(uri)
    if place != uri:
        return sqlite3.connect(place.removeprefix(READ_ONLY), uri=True)
    connection = sqlite3.connect(f"file:{quote(str(path_of(uri)))}?mode=rw", timeout=LOCK_TIMEOUT, uri=True)
    connection.execute("PRAGMA query_only=on")
    return connection


def writable(path: Path) -> bool:
    """Whether this process may write to the database at `path` and make the files beside it that SQLite needs."""
    return os.access(path, os.W_OK) and os.access(path.resolve().parent, os.W_OK)


def _has_log(path: Path) -> bool:
    log = path.with_name(f"{path.name}-wal")
    return log.exists() and log.stat().st_size > 0


def _copy(path: Path) -> Path:
    """A copy of the database at `path` with all that its write-ahead log holds; it goes when the process ends."""
    folder = Path(_copies.enter_context(tempfile.TemporaryDirectory(prefix="raybd-store-")))
    target = folder / path.name
    try:
        original = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
        with closing(original) as source, closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
    except sqlite3.Error:  # the log's index cannot be made where the folder is read-only: nobody writes there
        for part in (path, path.with_name(f"{path.name}-wal")):
            shutil.copyfile(part, folder / part.name)
        with closing(sqlite3.connect(target)) as copy:
            copy.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return target


def relocate(path: Path, old: str, new: str) -> None:
    """Replace the artifact location `old` by `new` in the experiments and runs of the store in the file `path`.

    MLflow writes absolute locations and has no way to change them (mlflow/mlflow issues 3144 and 8226), so a store that
    was moved or copied with its artifacts would go on reading and writing where they were.
    """
    with closing(sqlite3.connect(path, timeout=LOCK_TIMEOUT)) as connection, connection:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            below = f"substr({column}, 1, {len(old) + 1}) = ?"
            changed = f"UPDATE {table} SET {column} = ? || substr({column}, {len(old) + 1})"
            connection.execute(f"{changed} WHERE {column} = ? OR {below}", (new, old, f"{old}/"))


def artifacts_of(uri: str, name: str) -> str | None:
    """The artifact URI of experiment `name`: a folder beside the file of `uri`; None if the store is no file."""
    path = path_of(uri)
    return None if path is None else (artifacts_beside(path) / name).as_uri()


def artifacts_beside(path: Path) -> Path:
    """The folder of the artifacts of the store in the file `path`, which may be reached by a link."""
    return path.resolve().parent / ARTIFACTS
