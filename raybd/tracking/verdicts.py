"""Verdicts as tags of runs: the status of each trial's cell, so that MLflow's table of runs shows it."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING

from raybd.tracking import sqlite
from raybd.tracking.client import connect, existing_store
from raybd.tracking.landing import VERDICT
from raybd.tracking.store_file import StoreFile

if TYPE_CHECKING:
    import pandas as pd

PUT = (
    'INSERT INTO tags ("key", value, run_uuid) VALUES (?, ?, ?) '
    'ON CONFLICT ("key", run_uuid) DO UPDATE SET value = excluded.value'
)


def tag_verdicts(runs: "pd.DataFrame", verdicts: Mapping[str, str], tracking_uri: str | None = None) -> int:
    """Give each run of `verdicts` (run id -> verdict) its tag; how many had another one or none.

    A store in a file gets all of them in one transaction; MLflow's client sets the tag of one run at a time.

    Args:
        runs: of the sweep, as `raybd.tracking.load_runs` gives them; verdicts of other runs are left out.
        verdicts: by run id.
        tracking_uri: of the store; None: MLflow's own default.

    Raises:
        InputError: there is no such store.
        Exception: whatever the store raises where it cannot be written to.
    """
    uri, column = existing_store(tracking_uri), f"tags.{VERDICT}"
    has = dict(zip(runs["run_id"], runs[column] if column in runs else [None] * len(runs), strict=True))
    changed = {run: verdict for run, verdict in verdicts.items() if run in has and has[run] != verdict}
    if StoreFile.of(uri) is None:
        client = connect(uri)
        for run, verdict in changed.items():
            client.set_tag(run, VERDICT, verdict)
    elif changed:
        with closing(sqlite3.connect(sqlite.path_of(uri) or "", timeout=sqlite.LOCK_TIMEOUT)) as file, file:
            file.executemany(PUT, [(VERDICT, verdict, run) for run, verdict in changed.items()])
    return len(changed)
