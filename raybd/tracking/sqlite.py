"""Tracking stores that are a file on this machine."""

import sqlite3
from pathlib import Path
from urllib.parse import unquote

from raybd.errors import InputError

PATIENCE = 60.0  # seconds to wait for whoever has locked the file


def path_of(uri: str) -> Path | None:
    """The file of a SQLite URI, absolute; None for any other URI."""
    prefix = "sqlite:///"
    return Path(unquote(uri.removeprefix(prefix).split("?")[0])).absolute() if uri.startswith(prefix) else None


def prepare(uri: str) -> None:
    """Make the file of a SQLite URI and give it a write-ahead log: many trials write while people read.

    Raises:
        InputError: it cannot be written to.
    """
    path = path_of(uri)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with sqlite3.connect(path, timeout=PATIENCE) as connection:
            connection.execute("PRAGMA journal_mode=wal")
        connection.close()
    except (OSError, sqlite3.Error) as error:
        raise InputError(f"the tracking store {uri} cannot be written to: {error}") from error


def artifacts_of(uri: str, name: str) -> str | None:
    """Where the artifacts of experiment `name` go, as a URI: beside the file of `uri`; None where there is none."""
    path = path_of(uri)
    return None if path is None else (path.parent / "mlruns" / name).as_uri()
