"""Tags that runs are given after they have ended."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing

from raybd.tracking import sqlite
from raybd.tracking.client import absolute_uri, client_settings, connect
from raybd.tracking.store_file import StoreFile

PUT = (
    'INSERT INTO tags ("key", value, run_uuid) VALUES (?, ?, ?) '
    'ON CONFLICT ("key", run_uuid) DO UPDATE SET value = excluded.value'
)


@client_settings()
def tag_runs(tracking_uri: str | None, tags: Mapping[str, Mapping[str, str]]) -> None:
    """Give each run its `tags`, by its id; one that has a tag already gets the new value.

    A store in a file gets all of them in one transaction; MLflow's client tags one run at a time.

    Raises:
        Exception: whatever the store raises.
    """
    uri = absolute_uri(tracking_uri)
    if StoreFile.of(uri) is None:
        _by_client(uri, tags)
    elif tags:
        rows = [(name, value, run) for run, given in tags.items() for name, value in given.items()]
        with closing(sqlite3.connect(sqlite.path_of(uri) or "", timeout=sqlite.LOCK_TIMEOUT)) as file, file:
            file.executemany(PUT, rows)


def _by_client(uri: str, tags: Mapping[str, Mapping[str, str]]) -> None:
    from mlflow.entities import RunTag  # here: it takes MLflow's seconds

    client = connect(uri)
    for run_id, given in tags.items():
        client.log_batch(run_id, tags=[RunTag(name, value) for name, value in given.items()])
