"""A tracking store in a SQLite file, read by SQLite itself.

MLflow's client takes 2.7 CPU-seconds to import and connect and makes an object of its database mapper for every value:
10,000 trials take it half a minute, and these reads two seconds. Only files whose schema is one of SCHEMAS are read so;
tests compare both ways. The client reads all others.
"""

import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from typing import Any

from raybd.tracking import sqlite
from raybd.tracking.runs import Run, RunData, RunInfo

SCHEMAS = {"dc11669786a5"}  # revisions of MLflow's schema: 3.17
COLUMNS = "runs.run_uuid, name, status, start_time, end_time, artifact_uri"
OF_KIND = (
    "FROM runs JOIN tags AS kind ON kind.run_uuid = runs.run_uuid AND kind.key = 'raybd.kind' AND kind.value = ? "
    "WHERE runs.experiment_id = ? AND runs.lifecycle_stage = 'active'"
)


class StoreFile:
    """The runs in the SQLite store at a URI, as `raybd.tracking.runs.Reader` has them."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    @classmethod
    def of(cls, uri: str) -> "StoreFile | None":
        """The store at `uri`; None if it is no SQLite file or its schema is none of SCHEMAS."""
        if sqlite.path_of(uri) is None:
            return None
        try:
            found = cls(uri)._rows("SELECT version_num FROM alembic_version")
        except sqlite3.Error:
            return None  # what is wrong with it is told by MLflow's client
        return cls(uri) if len(found) == 1 and found[0][0] in SCHEMAS else None

    def experiments(self) -> dict[str, str]:
        """The id of every experiment that is not deleted, by name."""
        rows = self._rows("SELECT name, experiment_id FROM experiments WHERE lifecycle_stage = 'active'")
        return {name: str(id_) for name, id_ in rows}

    def runs(self, experiment_id: str, kind: str) -> list[Run]:
        """The runs of an experiment whose tag raybd.kind is `kind`, the latest first, deleted ones left out."""
        which = (kind, int(experiment_id))
        found = self._rows(f"SELECT {COLUMNS} {OF_KIND} ORDER BY start_time DESC, runs.run_uuid", which)
        params, tags = (self._values(table, which) for table in ("params", "tags"))
        metrics = self._metrics(which)
        return [
            Run(RunInfo(*row), RunData(params.get(row[0], {}), metrics.get(row[0], {}), tags.get(row[0], {})))
            for row in found
        ]

    def logged(self, run_id: str, metric: str) -> list[int]:
        """When a metric of a run was logged, milliseconds since 1970."""
        rows = self._rows("SELECT timestamp FROM metrics WHERE run_uuid = ? AND key = ?", (run_id, metric))
        return [at for (at,) in rows]

    def _values(self, table: str, which: tuple[Any, ...]) -> dict[str, dict[str, str]]:
        rows = self._rows(f"SELECT t.run_uuid, t.key, t.value {_joined(table)}", which)
        return _by_run(rows)

    def _metrics(self, which: tuple[Any, ...]) -> dict[str, dict[str, float]]:
        rows = self._rows(f"SELECT t.run_uuid, t.key, t.value, t.is_nan {_joined('latest_metrics')}", which)
        return _by_run((run_id, key, math.nan if is_nan else value) for run_id, key, value, is_nan in rows)

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with closing(sqlite.open_to_read(self.uri)) as connection:
            return connection.execute(query, values).fetchall()


def _joined(table: str) -> str:
    return OF_KIND.replace("WHERE", f"JOIN {table} AS t ON t.run_uuid = runs.run_uuid WHERE")


def _by_run(rows: Iterable[tuple[str, str, Any]]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for run_id, key, value in rows:
        found[run_id][key] = value
    return found
