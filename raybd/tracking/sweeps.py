"""The sweeps of a store: listed, deleted for good, renamed, copied to a store of their own."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient

from raybd.errors import InputError, public
from raybd.tracking import sqlite
from raybd.tracking.artifact_files import read_artifact
from raybd.tracking.client import connect_to_read, existing_store, find_experiments, one_line, sweep_run, trial_runs
from raybd.tracking.runs import ALIVE
from raybd.tracking.store import Store, now

QUESTION = ("preset", "data", "pairs", "attacks", "poison_rates", "model", "models", "defences", "base", "seeds")


@dataclass(frozen=True)
class SweepEntry:
    """A sweep in a store."""

    name: str
    question: str  # the options that say what it asks, of its last start; "" where it was started from Python
    trials: int
    finished: int
    last_active: int  # milliseconds since 1970: the driver's last heartbeat, or the last trial's end


def list_sweeps(tracking_uri: str | None = None) -> list[SweepEntry]:
    """The sweeps of the store, the one that was active last first.

    Raises:
        InputError: the store cannot be read.
    """
    uri = existing_store(tracking_uri)
    try:
        client = connect_to_read(uri)
        parents = [(one, sweep_run(client, one.experiment_id)) for one in client.search_experiments()]
        entries = [_entry(client, uri, experiment, run) for experiment, run in parents if run is not None]
    except Exception as error:
        raise InputError(f"the tracking store {public(uri)} cannot be read: {one_line(error)}") from error
    return sorted(entries, key=lambda entry: -entry.last_active)


def _entry(client: MlflowClient, uri: str, experiment: Any, parent: Any) -> SweepEntry:
    runs = trial_runs(client, experiment.experiment_id)
    keys = {run.data.tags.get("raybd.key", run.info.run_id) for run in runs}
    finished = {run.data.tags.get("raybd.key", run.info.run_id) for run in runs if run.info.status == "FINISHED"}
    ends = [run.info.end_time or run.info.start_time for run in runs]
    seen = max([int(parent.data.tags.get(ALIVE, 0)), parent.info.start_time, *ends])
    return SweepEntry(experiment.name, _question(client, uri, parent), len(keys), len(finished), seen)


def _question(client: MlflowClient, uri: str, parent: Any) -> str:
    try:
        files = client.list_artifacts(parent.info.run_id, "options")
        options: Mapping[str, Any] = json.loads(read_artifact(uri, parent, max(file.path for file in files)))
    except Exception:  # noqa: BLE001 - a store may raise anything, and the sweep is listed all the same
        return ""
    return " ".join(f"{name}={_short(options[name])}" for name in QUESTION if options.get(name) not in (None, [], ""))


def _short(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def delete_sweep(name: str, tracking_uri: str | None = None) -> None:
    """Delete a sweep's experiment, its runs and artifacts for good; the name is free again.

    A server deletes for good by `mlflow gc` on its own machine alone: there the experiment is renamed, marked deleted.

    Raises:
        InputError: the store cannot be written to.
    """
    store = Store.open(name, tracking_uri)  # of a moved store, artifacts are deleted where they are now
    id_, uri = store.address.experiment_id, store.address.uri
    store.client.rename_experiment(id_, f"{name} deleted {now()}")  # the name of a deleted one is taken in MLflow
    store.client.delete_experiment(id_)
    path = sqlite.path_of(uri)
    if path is not None:
        place = ["--backend-store-uri", uri, "--tracking-uri", uri]
        command = [sys.executable, "-m", "mlflow", "gc", *place, "--experiment-ids", id_]
        done = subprocess.run(command, capture_output=True, text=True, cwd=path.parent, check=False)
        if done.returncode:
            raise InputError(f"{name!r} is marked deleted, but mlflow gc failed: {done.stderr.strip()[-300:]}")
        shutil.rmtree(sqlite.artifacts_beside(path) / name, ignore_errors=True)


def rename_sweep(old: str, new: str, tracking_uri: str | None = None) -> None:
    """Rename a sweep's experiment, with its artifacts where they lie beside the store's file.

    Raises:
        InputError: the store cannot be written to, or has an experiment of the new name.
    """
    store = Store.open(old, tracking_uri)
    client, id_, uri = store.client, store.address.experiment_id, store.address.uri
    if client.get_experiment_by_name(new) is not None:
        raise InputError(f"the store has an experiment {new!r} already, perhaps a deleted one: choose another name")
    client.rename_experiment(id_, new)
    client.update_run(store.address.parent_id, name=f"sweep {new}")
    for run_id in [store.address.parent_id, *(run.info.run_id for run in trial_runs(client, id_))]:
        client.set_tag(run_id, "raybd.sweep", new)
    path = sqlite.path_of(uri)
    if path is not None:
        folder = sqlite.artifacts_beside(path)
        if (folder / old).is_dir():
            (folder / old).rename(folder / new)
        sqlite.relocate(path, (folder / old).as_uri(), (folder / new).as_uri())


def has_sweep(name: str, tracking_uri: str | None = None) -> bool:
    """Whether the store has an experiment `name`, deleted ones left out.

    Raises:
        InputError: the store cannot be read.
    """
    return name in find_experiments([], tracking_uri)[1]
