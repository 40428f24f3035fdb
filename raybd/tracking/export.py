"""A copy of a sweep in a folder of its own: store, artifacts and the trials' folders, which opens anywhere."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from raybd.errors import InputError
from raybd.tracking import sqlite
from raybd.tracking.artifact_files import local_folder, local_path, read_artifact
from raybd.tracking.client import absolute_uri, client_settings, find_experiments, sweep_run, trial_runs
from raybd.tracking.metric_table import parse_table
from raybd.tracking.store import Store
from raybd.tracking.uploads import METRICS_PER_BATCH, PARENT
from raybd.trials.records import SweepFolder, TrialFolder
from raybd.utils.files import copy_folder, expanded
from raybd.utils.metric_names import TABLE, headline

TEXTS_PER_BATCH = 100  # parameters or tags; MLflow's own limit


@client_settings()
def export_sweep(name: str, out: Path, tracking_uri: str | None = None, folder: Path | None = None) -> int:
    """Copy the sweep `name`, and the `folder` of its trials if it is here, to `out`; the number of its runs.

    The copy is a store of its own: its runs have new ids.

    Raises:
        InputError: `out` holds something, or the store cannot be read.
    """
    out = expanded(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} holds something already: give --out a folder that is new or empty")
    client, known = find_experiments([name], tracking_uri)
    uri = absolute_uri(tracking_uri)
    target = Store.open(name, f"sqlite:///{out / 'mlflow.db'}")
    if (parent := sweep_run(client, known[name])) is not None:
        _fill(target.client, target.address.parent_id, client, uri, parent)
    copies = {run.info.run_id: _copy(target, client, uri, run) for run in trial_runs(client, known[name])}
    if folder is not None:
        _copy_folder(folder, SweepFolder.of(out / "results", name), copies, target.address.identity)
    sqlite.checkpoint(target.address.uri)
    return len(copies)


def _copy(target: Store, client: MlflowClient, uri: str, run: Any) -> str:
    tags = {**run.data.tags, PARENT: target.address.parent_id}
    new = target.client.create_run(target.address.experiment_id, run.info.start_time, tags, run.info.run_name)
    _fill(target.client, new.info.run_id, client, uri, run)
    return str(new.info.run_id)


def _fill(target: MlflowClient, run_id: str, client: MlflowClient, uri: str, run: Any) -> None:
    """Give the run `run_id` of the copy what `run` has: parameters, tags, metrics, artifacts, status."""
    params = [Param(name, value) for name, value in run.data.params.items()]
    tags = [RunTag(name, value) for name, value in run.data.tags.items() if name != PARENT]
    for start in range(0, max(len(params), len(tags)), TEXTS_PER_BATCH):
        part = slice(start, start + TEXTS_PER_BATCH)
        target.log_batch(run_id, params=params[part], tags=tags[part])
    if run.inputs and run.inputs.dataset_inputs:
        target.log_inputs(run_id, run.inputs.dataset_inputs)
    metrics = list(_metrics(client, uri, run))
    for start in range(0, len(metrics), METRICS_PER_BATCH):
        target.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_BATCH])
    _copy_artifacts(uri, run, local_path(target.get_run(run_id).info.artifact_uri))
    target.set_terminated(run_id, run.info.status, run.info.end_time or run.info.start_time)


def _metrics(client: MlflowClient, uri: str, run: Any) -> Iterator[Metric]:
    """The metrics that `run` logged, at every step: from its table where it has one, which is read at once."""
    try:
        epochs, values = parse_table(read_artifact(uri, run, TABLE))
    except (OSError, ValueError, mlflow.MlflowException):
        for name in run.data.metrics:
            yield from client.get_metric_history(run.info.run_id, name)
        return
    for name in headline(values):
        for epoch, value in zip(epochs, values[name], strict=True):
            if value:
                yield Metric(name, float(value), run.info.end_time or run.info.start_time, epoch)


def _copy_artifacts(uri: str, run: Any, target: Path) -> None:
    source = local_folder(uri, run.info.artifact_uri)
    if source is not None and source.is_dir():
        copy_folder(source, target)
    elif source is None:
        target.mkdir(parents=True, exist_ok=True)
        mlflow.artifacts.download_artifacts(artifact_uri=run.info.artifact_uri, dst_path=str(target), tracking_uri=uri)


def _copy_folder(source: Path, target: SweepFolder, copies: dict[str, str], identity: str) -> None:
    """Copy the sweep's folder; its trials are uploaded to the copy's store, under their new run ids."""
    copy_folder(source, target.path, (".lock", ".writable"))
    for path in (target.path / "trials").iterdir():
        trial = TrialFolder(path)
        for state in list(trial.upload_states().values()):
            if state["run_id"] in copies:
                trial.write_upload_state(identity, state | {"run_id": copies[state["run_id"]]})
