"""From logged trials in a SQLite store to a map: 1,000 and 10,000 trials, ours and by MLflow's client.

python -m tests.benchmarks --only stored_map
"""

import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

from mlflow.entities import Metric, Param, RunTag

from analysis import DefendedRegionMap
from raybd.tracking import sqlite, store_file
from raybd.tracking.store import Store
from raybd.utils.metric_names import ACCURACY, ATTACK_SUCCESS, CLEAN_COUNT, TRIGGERED_COUNT
from tests.benchmarks.timing import Row, require

COUNTS = (1_000, 10_000)
CLIENT = 1_000  # trials that MLflow's client reads: with 10,000 it takes a quarter of a minute
RATES, WIDTHS = (0.0, 0.01, 0.02, 0.05), (0.5, 1.0)
OTHERS = {"params": 42, "metrics": 20, "tags": 8}  # of a run of sweeps/ib.py, beside those that the map reads


def stored_map() -> list[Row]:
    """CPU seconds from a store to a map, imports left out."""
    with tempfile.TemporaryDirectory() as folder:
        stores = {count: make_store(Path(folder) / f"{count}.db", count) for count in COUNTS}
        _seconds(stores[COUNTS[0]], COUNTS[0])  # imports
        small, large = (_seconds(stores[count], count) for count in COUNTS)
        with patch.object(store_file, "SCHEMAS", set()):
            client = _seconds(stores[CLIENT], CLIENT)
    return [
        Row(f"SQLite to map, {COUNTS[0]:,} trials", small, None, 1, "CPU-s"),
        Row(f"SQLite to map, {COUNTS[1]:,} trials", large, None, 1, "CPU-s"),
        Row("SQLite to map: ten times the trials cost", large / small, None, 1, "times as much"),
        Row(f"SQLite to map, {CLIENT:,} trials, by MLflow's client", client, None, 1, "CPU-s"),
    ]


def make_store(path: Path, trials: int) -> str:
    """A store with so many finished trials of a map of 8 cells; its URI.

    One goes through MLflow, the others are copies of its rows under other ids, with settings and rates of their own.
    """
    store = Store.open("s", f"sqlite:///{path}")
    tags = {"raybd.kind": "trial", "raybd.key": "0"} | {f"tag.{i}": "of a run" for i in range(OTHERS["tags"])}
    made = store.client.create_run(store.address.experiment_id, tags=tags).info.run_id
    params = {"attack.name": "badnets", "poison_rate": "0", "model.width": "0", "seed": "0", "data": "digits"}
    params |= {f"train.setting_{i}": "0.0005" for i in range(OTHERS["params"])}
    metrics = {ACCURACY: 0.9, ATTACK_SUCCESS: 0.0, CLEAN_COUNT: 1000, TRIGGERED_COUNT: 900}
    metrics |= {f"mi/number_{i}": 0.5 for i in range(OTHERS["metrics"])}
    store.client.log_batch(
        made,
        [Metric(name, value, 1, 0) for name, value in metrics.items()],
        [Param(name, value) for name, value in params.items()],
        [RunTag("raybd.version", "0")],
    )
    store.client.set_terminated(made)
    copy_run(path, made, trials - 1)
    _vary(path)
    sqlite.checkpoint(store.address.uri)
    return store.address.uri


def copy_run(path: Path, made: str, copies: int) -> None:
    """The rows of run `made` once more under other ids, in every table that speaks of runs."""
    names = [(f"{i:032x}",) for i in range(copies)]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TEMP TABLE copies (id TEXT)")
        connection.executemany("INSERT INTO copies VALUES (?)", names)
        for table in ("runs", "metrics", "latest_metrics", "params", "tags"):
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            kept = ", ".join("copies.id" if name == "run_uuid" else f"{table}.{name}" for name in columns)
            said = f"INSERT INTO {table} ({', '.join(columns)}) SELECT {kept} FROM {table}, copies WHERE run_uuid = ?"
            connection.execute(said, (made,))


def _vary(path: Path) -> None:
    """Give every trial of the store in `path` a setting, a seed and a key of its own, and an attack success."""
    with closing(sqlite3.connect(path)) as connection, connection:
        runs = [run for (run,) in connection.execute("SELECT run_uuid FROM tags WHERE value = 'trial'")]
        values = []
        for number, run in enumerate(runs):
            rate, width = RATES[number % 4], WIDTHS[number // 4 % 2]
            values.append((run, str(rate), str(width), str(number // 8), str(number), 0.01 + 15 * rate))
        for key, at in (("poison_rate", 1), ("model.width", 2), ("seed", 3)):
            changes = [(value[at], value[0]) for value in values]
            connection.executemany(f"UPDATE params SET value = ? WHERE run_uuid = ? AND key = '{key}'", changes)
        keys, successes = ([(value[at], value[0]) for value in values] for at in (4, 5))
        connection.executemany("UPDATE tags SET value = ? WHERE run_uuid = ? AND key = 'raybd.key'", keys)
        changed = f"UPDATE latest_metrics SET value = ? WHERE run_uuid = ? AND key = '{ATTACK_SUCCESS}'"
        connection.executemany(changed, successes)


def _seconds(uri: str, count: int) -> float:
    start = time.process_time()
    found = DefendedRegionMap.from_mlflow("s", uri)
    seconds = time.process_time() - start
    require(sum(len(cell.seeds) for cell in found.cells) == count, f"a map of {count} trials")
    require(found.query(poison_rate=0.05).status == "backdoored", "a verdict")
    return seconds
