"""Reading back: the trials of an experiment as a table, and the record of one."""

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from raybd.errors import InputError
from raybd.tracking.artifact_files import read_artifact
from raybd.tracking.client import (
    absolute_uri,
    client_settings,
    connect_to_read,
    existing_store,
    find_experiments,
    one_line,
    trial_runs,
)
from raybd.tracking.metric_table import read_tables
from raybd.trials.records import Record


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
    client, known = find_experiments(names, tracking_uri)
    runs = [run for name in names for run in trial_runs(client, known[name])]
    tables = read_tables(runs, absolute_uri(tracking_uri)) if all_metrics else {}
    return pd.DataFrame([_row(run, tables.get(run.info.run_id, {})) for run in runs])


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


def _row(run: Any, metrics: dict[str, float]) -> dict[str, Any]:
    parts = {"params": run.data.params, "metrics": {**run.data.metrics, **metrics}, "tags": run.data.tags}
    flat = {f"{kind}.{name}": value for kind, values in parts.items() for name, value in values.items()}
    start = pd.Timestamp(run.info.start_time, unit="ms", tz="UTC")
    return {"run_id": run.info.run_id, "status": run.info.status, "start_time": start} | flat
