"""Reading back: the trials of an experiment as a table, and the record of one."""

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from raybd.errors import InputError
from raybd.tracking.artifact_files import artifact_names, read_artifact, read_bytes
from raybd.tracking.client import absolute_uri, client_settings, connect_to_read, existing_store, one_line, reading
from raybd.tracking.metric_table import read_histories, read_tables
from raybd.tracking.reader import find_sweeps
from raybd.trials.records import Record

Figures = dict[str, bytes]  # PNG by name


@client_settings()
def load_runs(
    experiment: str | Sequence[str], tracking_uri: str | None = None, all_metrics: bool = False
) -> pd.DataFrame:
    """Table of the trials of the named experiments, a row each, with the columns of mlflow.search_runs.

    (Unlike that function it does not set the tracking URI of the whole process.)

    Args:
        experiment: one name or several.
        tracking_uri: of the store; None: MLflow's own default.
        all_metrics: read every metric of each trial from its table, an artifact, and not the headline ones alone.

    Raises:
        InputError: the store cannot be reached or an experiment is not in it.
    """
    names = [experiment] if isinstance(experiment, str) else list(experiment)
    reader, known = find_sweeps(names, tracking_uri)
    runs = [run for name in names for run in reader.runs(known[name], "trial")]
    tables = read_tables(runs, absolute_uri(tracking_uri)) if all_metrics else {}
    return _table(runs, [run.data.metrics | tables.get(run.info.run_id, {}) for run in runs])


@client_settings()
def load_histories(experiment: str | Sequence[str], tracking_uri: str | None = None) -> pd.DataFrame:
    """Every metric of the finished trials of the named experiments at each epoch: run_id, epoch, a column a metric.

    Raises:
        InputError: the store cannot be reached or an experiment is not in it.
    """
    names = [experiment] if isinstance(experiment, str) else list(experiment)
    reader, known = find_sweeps(names, tracking_uri)
    runs = [run for name in names for run in reader.runs(known[name], "trial") if run.info.status == "FINISHED"]
    rows = read_histories(runs, absolute_uri(tracking_uri))
    return pd.DataFrame(rows, columns=None if rows else ["run_id", "epoch"])


@client_settings()
def load_record(run_id: str, tracking_uri: str | None = None) -> Record:
    """The record of the trial of run `run_id`: config, final metrics, environment.

    Raises:
        InputError: the store cannot be reached, has no such run, or the run holds no trial.
    """
    uri = existing_store(tracking_uri)
    try:
        client = connect_to_read(uri)
        return Record(**json.loads(read_artifact(uri, client.get_run(run_id), "trial.json")))
    except Exception as error:
        raise InputError(f"no trial can be read from run {run_id} in {uri}: {one_line(error)}") from error


@client_settings()
def load_figures(run_ids: Sequence[str], names: Sequence[str], tracking_uri: str | None = None) -> dict[str, Figures]:
    """Of each of these runs the figures of these `names` that it has: name to PNG, by run id.

    Raises:
        InputError: the store cannot be reached or has no such run.
    """
    uri, found = existing_store(tracking_uri), dict[str, Figures]()
    with reading(uri):
        client = connect_to_read(uri)
        for run_id in run_ids:
            run = client.get_run(run_id)
            listed = artifact_names(uri, run, "figures", client)
            paths = {name: f"figures/{name}.png" for name in names}
            found[run_id] = {name: read_bytes(uri, run, path) for name, path in paths.items() if path in listed}
    return found


def _table(runs: Sequence[Any], metrics: Sequence[dict[str, float]]) -> pd.DataFrame:
    """A row a run, a column each of their names; of the names that a run lacks NaN or None."""
    columns = {
        "run_id": [run.info.run_id for run in runs],
        "status": [run.info.status for run in runs],
        "start_time": pd.to_datetime([run.info.start_time for run in runs], unit="ms", utc=True),
    }
    for kind, parts in (
        ("params", [run.data.params for run in runs]),
        ("metrics", metrics),
        ("tags", [run.data.tags for run in runs]),
    ):
        for name in dict.fromkeys(name for part in parts for name in part):
            columns[f"{kind}.{name}"] = [part.get(name) for part in parts]
    return pd.DataFrame(columns)
