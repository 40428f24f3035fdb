"""Tracking stores in a SQLite file: path, creation, artifact folder."""

import sqlite3
from pathlib import Path
from urllib.parse import unquote

from raybd.errors import InputError

ARTIFACTS = "mlruns"  # folder beside the file, an experiment's artifacts in a folder of its name
LOCK_TIMEOUT = 60.0  # seconds to wait for a locked file


def path_of(uri: str) -> Path | None:
    """The file of a SQLite URI, absolute; None for any other URI."""
    prefix = "sqlite:///"
    return Path(unquote(uri.removeprefix(prefix).split("?")[0])).absolute() if uri.startswith(prefix) else None


def prepare(uri: str) -> None:
    """Create the file of a SQLite URI with a write-ahead log, since many trials write while others read.

    Raises:
        InputError: it cannot be written to.
    """
    path = path_of(uri)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with sqlite3.connect(path, timeout=LOCK_TIMEOUT) as connection:
            connection.execute("PRAGMA journal_mode=wal")
        connection.close()
    except (OSError, sqlite3.Error) as error:
        raise InputError(f"the tracking store {uri} cannot be written to: {error}") from error


def relocate(path: Path, old: str, new: str) -> None:
    """Replace the artifact location `old` by `new` in the experiments and runs of the store in the file `path`.

    MLflow writes absolute locations and has no way to change them (mlflow/mlflow issues 3144 and 8226), so a store that
    was moved or copied with its artifacts would go on reading and writing where they were.
    """
    with sqlite3.connect(path, timeout=LOCK_TIMEOUT) as connection:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            below = f"substr({column}, 1, {len(old) + 1}) = ?"
            changed = f"UPDATE {table} SET {column} = ? || substr({column}, {len(old) + 1})"
            connection.execute(f"{changed} WHERE {column} = ? OR {below}", (new, old, f"{old}/"))
    connection.close()


def artifacts_of(uri: str, name: str) -> str | None:
    """The artifact URI of experiment `name`: a folder beside the file of `uri`; None if the store is no file."""
    path = path_of(uri)
    return None if path is None else (path.parent / ARTIFACTS / name).as_uri()
