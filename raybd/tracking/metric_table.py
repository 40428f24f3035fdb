"""The table of all metrics of a trial: an artifact of its run, CSV, a row a metric and a column an epoch."""

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from raybd.tracking.artifact_files import read_artifact
from raybd.tracking.client import one_line
from raybd.utils.metric_names import ACCURACY, TABLE, headline

NAME = "metric"
DOWNLOADS = 8  # at once, of tables that are not on this machine
log = logging.getLogger(__name__)


def format_table(history: Sequence[Mapping[str, Any]]) -> str:
    """The table of `history`, lines {"epoch": ..., "metrics": {...}}; what an epoch has no number of is empty."""
    names = dict.fromkeys(name for line in history for name in line["metrics"])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([NAME, *(f"epoch {line['epoch']}" for line in history)])
    writer.writerows([name, *(line["metrics"].get(name, "") for line in history)] for name in names)
    return text.getvalue()


def parse_table(text: str) -> tuple[list[int], dict[str, list[str]]]:
    """The epochs, and each metric's value at each as text, "" where it has none, of what `format_table` wrote.

    Raises:
        ValueError: it is no such table.
    """
    (_, *epochs), *rows = csv.reader(io.StringIO(text))
    return [int(epoch.removeprefix("epoch ")) for epoch in epochs], {name: row for name, *row in rows}


def last_values(text: str) -> dict[str, float]:
    """Every metric's value at the last probe or after it, of a table that `format_table` wrote.

    The last probe is the last epoch with an accuracy (the last of all where none has one). What only earlier probes
    could measure is left out: it is not what the trial ended with.
    """
    _, rows = parse_table(text)
    probes = [index for index, value in enumerate(rows.get(ACCURACY, [])) if value] or [-1]
    values = {name: next((value for value in reversed(row[probes[-1] :]) if value), "") for name, row in rows.items()}
    return {name: float(value) for name, value in values.items() if value}


def read_tables(runs: Sequence[Any], tracking_uri: str) -> dict[str, dict[str, float]]:
    """The last values of all metrics of each of `runs`, by its id; without those that have no table.

    Runs of raybd 0.1 have none, and every metric in MLflow. A table that is missing or damaged is told in a warning.
    """
    with ThreadPoolExecutor(DOWNLOADS) as pool:
        tables = list(pool.map(partial(_read, tracking_uri), runs))
    found = {run.info.run_id: table for run, table in zip(runs, tables, strict=True) if table}
    lost = [run.info.run_id for run in runs if run.info.run_id not in found and _had_table(run)]
    if lost:
        log.warning("%d trials have lost their table of all metrics (%s): headline metrics alone", len(lost), lost[0])
    return found


def read_histories(runs: Sequence[Any], tracking_uri: str) -> list[dict[str, Any]]:
    """A row a run and epoch, {"run_id": ..., "epoch": ..., name: value}.

    Of runs whose table is missing or damaged there is none, which is told in a warning.
    """
    with ThreadPoolExecutor(DOWNLOADS) as pool:
        tables = pool.map(partial(_text, tracking_uri), runs)
        rows = {run.info.run_id: _rows(run.info.run_id, text) for run, text in zip(runs, tables, strict=True)}
    if lost := [run_id for run_id, found in rows.items() if not found]:
        log.warning("%d trials have lost their table of all metrics (%s): left out", len(lost), lost[0])
    return [row for found in rows.values() for row in found]


def _rows(run_id: str, text: str) -> list[dict[str, Any]]:
    """The epochs of a table, each with the metrics that it has; [] where it is none."""
    try:
        epochs, values = parse_table(text)
        return [
            {"run_id": run_id, "epoch": epoch} | {name: float(row[i]) for name, row in values.items() if row[i]}
            for i, epoch in enumerate(epochs)
        ]
    except ValueError as error:
        log.debug("the table of run %s is damaged: %s", run_id, one_line(error))
        return []


def _had_table(run: Any) -> bool:
    """Whether a finished run was logged with its headline metrics alone; those of raybd 0.1 have more."""
    names = run.data.metrics
    return run.info.status == "FINISHED" and len(headline(names)) == len(names)


def _read(tracking_uri: str, run: Any) -> dict[str, float]:
    """The last values in a run's table; {} where it cannot be had."""
    text = _text(tracking_uri, run)
    try:
        return last_values(text) if text else {}
    except ValueError as error:
        log.debug("the table of run %s is damaged: %s", run.info.run_id, one_line(error))
        return {}


def _text(tracking_uri: str, run: Any) -> str:
    """A run's table as text; "" where it cannot be had."""
    try:
        return read_artifact(tracking_uri, run, TABLE)
    except Exception as error:  # noqa: BLE001 - a store may raise anything; the run's headline metrics are there
        log.debug("no table of run %s: %s", run.info.run_id, one_line(error))
        return ""
