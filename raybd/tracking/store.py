"""Store: a sweep's experiment in MLflow and its parent run, for the driver; Address: the same for workers."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric

from raybd.errors import InputError, public
from raybd.tracking import sqlite
from raybd.tracking.client import absolute_uri, connect, one_line, trial_runs

NOTE = "mlflow.note.content"
PLANNED, ALIVE = "raybd.planned", "raybd.alive"  # tags of the parent run: number of trials; last heartbeat
PLAN = "plan.json"  # its artifact with their keys


@dataclass(frozen=True)
class Address:
    """Where a sweep's runs are: store, experiment and parent run, all that a worker needs to log."""

    uri: str
    experiment_id: str
    parent_id: str

    @property
    def name(self) -> str:
        """The key of this store in upload states of trial folders, without passwords."""
        return f"{public(self.uri)} {self.experiment_id}"


class Store:
    """The experiment of a sweep, for its driver."""

    def __init__(self, client: MlflowClient, address: Address) -> None:
        self.client, self.address = client, address

    @classmethod
    def open(cls, name: str, uri: str | None = None) -> "Store":
        """The experiment `name` in the store at `uri` with its parent run, both created if need be.

        Raises:
            InputError: the store cannot be reached or written to.
        """
        uri = absolute_uri(uri)
        sqlite.prepare(uri)
        try:
            client = connect(uri)
            experiment = client.get_experiment_by_name(name)
            id_ = experiment.experiment_id if experiment else _create(client, name, sqlite.artifacts_of(uri, name))
            return cls(client, Address(uri, id_, _parent(client, id_, name)))
        except Exception as error:
            raise InputError(f"the tracking store {uri} cannot be used: {one_line(error)}") from error

    def finished(self) -> dict[str, str]:
        """The run ids of the finished trials by key."""
        runs = trial_runs(self.client, self.address.experiment_id, "FINISHED")
        return {run.data.tags["raybd.key"]: run.info.run_id for run in runs if "raybd.key" in run.data.tags}

    def begin(self, options: dict[str, Any], keys: Sequence[str] | None) -> None:
        """Open the parent run at the start of the sweep and log its options and the `keys` of all its trials.

        `keys` is None while a search is still choosing them.
        """
        parent = self.address.parent_id
        self.client.update_run(parent, status="RUNNING")
        self.client.log_dict(parent, {"keys": list(keys or [])}, PLAN)
        self.client.set_tag(parent, PLANNED, "" if keys is None else len(keys))
        self.heartbeat()
        self.client.log_dict(parent, options, f"options/{time.strftime('%Y%m%d-%H%M%S')}.json")

    def heartbeat(self) -> None:
        """Write the driver's heartbeat to the parent run."""
        self.client.set_tag(self.address.parent_id, ALIVE, now())

    def end(self, status: str, metrics: dict[str, float], note: str, artifacts: Iterable[Path]) -> None:
        """Close the parent run with its summary, and the runs that dead workers left open."""
        for run in trial_runs(self.client, self.address.experiment_id, "RUNNING"):
            close(self.client, run.info.run_id, "KILLED")
        parent = self.address.parent_id
        starts = len(
            self.client.get_metric_history(parent, "trials")
        )  # as step: within one, MLflow shows the latest by clock
        self.client.log_batch(parent, metrics=metric_entities([{"epoch": starts, "time": now(), "metrics": metrics}]))
        self.client.set_tag(parent, NOTE, note)
        for path in artifacts:
            self.client.log_artifact(parent, str(path), "figures" if path.suffix == ".png" else None)
        close(self.client, parent, status)


def _create(client: MlflowClient, name: str, artifacts: str | None) -> str:
    """Create an experiment, of the kind that the UI shows as model training."""
    return str(client.create_experiment(name, artifacts, {"mlflow.experimentKind": "custom_model_development"}))


def _parent(client: MlflowClient, experiment_id: str, name: str) -> str:
    found = client.search_runs([experiment_id], "tags.`raybd.kind` = 'sweep'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    run = client.create_run(experiment_id, run_name=f"sweep {name}", tags={"raybd.kind": "sweep", "raybd.sweep": name})
    return str(run.info.run_id)


def close(client: MlflowClient, run_id: str, status: str) -> None:
    """End the run now, or at its start time if the clock has been set back since."""
    client.set_terminated(run_id, status, max(now(), client.get_run(run_id).info.start_time))


def metric_entities(lines: Iterable[dict[str, Any]]) -> list[Metric]:
    """MLflow's Metric entities for lines of a trial's history."""
    return [
        Metric(name, value, line["time"], line["epoch"]) for line in lines for name, value in line["metrics"].items()
    ]


def now() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)
