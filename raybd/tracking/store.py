"""Store: a sweep's experiment in MLflow and its parent run, for the driver; Address: the same for workers."""

import logging
import time
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Experiment, LifecycleStage, Metric
from mlflow.exceptions import MlflowException

from raybd.errors import InputError, public
from raybd.tracking import database, sqlite
from raybd.tracking.client import absolute_uri, connect, one_line, sweep_run, trial_runs
from raybd.tracking.landing import VIEW_TAG, runs_path, view_of
from raybd.tracking.networks import KEPT
from raybd.tracking.relocation import relocated
from raybd.tracking.runs import ALIVE, DRIVER, PLAN, PLANNED
from raybd.utils.process_name import ProcessName

log = logging.getLogger(__name__)
DELETED = LifecycleStage.DELETED
IDENTITY = "raybd.store"  # tag of the experiment
CHECKED = "raybd.checked"  # tag of the parent run: when a driver last found that it can be written to
NOTE = "mlflow.note.content"
NOTE_LIMIT = 7500  # characters; MLflow cuts a tag at 8,000
EXPERIMENT_TAG_LIMIT = 5000  # characters; MLflow refuses more
QUESTION = "## At which settings does the backdoor not take hold?"  # head of the experiment's description
SUMMARY = "summary.md"  # artifact of the parent run: the summary whole
HEARTBEAT_SECONDS = 5.0  # between two heartbeats of a driver


@dataclass(frozen=True)
class Address:
    """Where a sweep's runs are: store, experiment and parent run, all that a worker needs to log.

    `identity` is the store's own: a tag of the experiment, the same however its address is spelt.
    """

    uri: str
    experiment_id: str
    parent_id: str
    identity: str


class Store:
    """The experiment of a sweep, for its driver."""

    def __init__(self, client: MlflowClient, address: Address) -> None:
        self.client, self.address = client, address
        self._file = _file_number(address.uri)

    @classmethod
    def open(cls, name: str, uri: str | None = None) -> "Store":
        """The experiment `name` in the store at `uri` with its parent run, both created if need be.

        Raises:
            InputError: the store cannot be reached or written to.
        """
        uri = absolute_uri(uri)
        sqlite.prepare(uri)
        try:
            with database.locked(uri):
                return cls._open(name, uri)
        except (InputError, Warning):
            raise
        except Exception as error:
            raise InputError(f"the tracking store {public(uri)} {_trouble(error)}: {one_line(error)}") from error

    @classmethod
    def _open(cls, name: str, uri: str) -> "Store":
        client = connect(uri)
        experiment = _experiment(client, uri, name)
        id_ = experiment.experiment_id
        address = Address(uri, id_, _parent(client, id_, name), _identity(client, experiment))
        client.set_tag(address.parent_id, CHECKED, now())  # what cannot be written to is told before any work
        return cls(client, address)

    def finished(self) -> dict[str, str]:
        """The run ids of the finished trials by key."""
        runs = trial_runs(self.client, self.address.experiment_id, "FINISHED")
        return {run.data.tags["raybd.key"]: run.info.run_id for run in runs if "raybd.key" in run.data.tags}

    def without_networks(self, keys: Collection[str], which: str) -> list[str]:
        """The run ids of the finished trials of `keys` that did not keep their networks, `which` being last or all."""
        enough, wanted = ("all", "last") if which == "last" else ("all",), set(keys)
        runs = trial_runs(self.client, self.address.experiment_id, "FINISHED")
        mine = [run for run in runs if run.data.tags.get("raybd.key") in wanted]
        return [run.info.run_id for run in mine if run.data.tags.get(KEPT) not in enough]

    def begin(self, options: dict[str, Any], keys: Sequence[str] | None, varying: Sequence[str] = ()) -> None:
        """Open the parent run at the start of the sweep and log its options and the `keys` of all its trials.

        `keys` is None while a search is still choosing them; `varying` are the names of the parameters in which trials
        differ, the columns of the runs' table.
        """
        parent = self.address.parent_id
        self.client.update_run(parent, status="RUNNING")
        self.client.log_dict(parent, {"keys": list(keys or [])}, PLAN)
        self.client.set_tag(parent, PLANNED, "" if keys is None else len(keys))
        self.client.set_tag(parent, DRIVER, str(ProcessName.own() or ""))
        self.heartbeat()
        self._describe({VIEW_TAG: view_of(varying)} if keys is not None else {})
        self.client.log_dict(parent, options, f"options/{time.strftime('%Y%m%d-%H%M%S')}.json")

    def lost(self) -> str:
        """What has become of the store or the experiment since it was opened; "" if it is there, or does not answer."""
        number = _file_number(self.address.uri)
        if number != self._file:
            return "has been replaced by another" if number else "has been deleted or moved"
        try:
            return lost(self.client, self.address)
        except Exception:  # noqa: BLE001 - a store may raise anything; one that is away is another matter
            return ""

    def heartbeat(self) -> None:
        """Write the driver's heartbeat to the parent run."""
        self.client.set_tag(self.address.parent_id, ALIVE, now())

    def end(
        self, status: str, metrics: dict[str, float], note: str, artifacts: Iterable[Path], findings: str = ""
    ) -> None:
        """Close the parent run with its summary, and the runs that dead workers left open.

        `findings` become the description of the experiment, above its table of runs.
        """
        parent = self.address.parent_id
        starts = len(
            self.client.get_metric_history(parent, "trials")
        )  # as step: within one, MLflow shows the latest by clock
        self.client.log_batch(parent, metrics=metric_entities([{"epoch": starts, "time": now(), "metrics": metrics}]))
        self.client.set_tag(parent, NOTE, _shortened(note))
        self._describe({NOTE: f"{QUESTION}\n\n{findings}"} if findings else {})
        self.client.log_text(parent, note, SUMMARY)
        for path in artifacts:
            self.client.log_artifact(parent, str(path), "figures" if path.suffix == ".png" else None)
        self.close_runs(status)
        sqlite.checkpoint(self.address.uri)

    def link(self, ui: str) -> str:
        """The sweep's page of runs in the UI at the address `ui`."""
        return f"{ui.rstrip('/')}{runs_path(self.address.experiment_id)}"

    def _describe(self, tags: Mapping[str, str]) -> None:
        """Set tags of the experiment."""
        for name, value in tags.items():
            self.client.set_experiment_tag(self.address.experiment_id, name, value[:EXPERIMENT_TAG_LIMIT])

    def close_runs(self, status: str) -> None:
        """Close the parent run with `status`, and the runs of trials that did not end."""
        for run in trial_runs(self.client, self.address.experiment_id, "RUNNING"):
            close(self.client, run.info.run_id, "KILLED")
        close(self.client, self.address.parent_id, status)


def lost(client: MlflowClient, address: Address) -> str:
    """Why the store is no longer that of `address`, or the experiment is gone; "" if all is well.

    Raises:
        Exception: it does not answer.
    """
    try:
        found = client.get_experiment(address.experiment_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return "has been replaced by another"
        raise
    if found.tags.get(IDENTITY) != address.identity:
        return "has been replaced by another"
    return "has lost the sweep: its experiment was deleted" if found.lifecycle_stage == DELETED else ""


def _file_number(uri: str) -> tuple[int, int] | None:
    """Device and number of a store's file; None where there is none, or the store is no file."""
    path = sqlite.path_of(uri)
    try:
        return None if path is None else (path.stat().st_dev, path.stat().st_ino)
    except OSError:
        return None


def _shortened(note: str) -> str:
    """The lines of `note` that MLflow's limit for a tag leaves room for."""
    if len(note) <= NOTE_LIMIT:
        return note
    head = note[:NOTE_LIMIT].rpartition("\n")[0]
    return f"{head}\n```\n\nThe rest is in the artifact `{SUMMARY}`."


def _trouble(error: Exception) -> str:
    denied = ("readonly", "read-only", "permission", "denied", "forbidden")
    return "is not writable" if any(word in str(error).lower() for word in denied) else "cannot be used"


def _experiment(client: MlflowClient, uri: str, name: str) -> Experiment:
    """The experiment `name`, created if need be, of the kind that the UI shows as model training."""
    own = sqlite.artifacts_of(uri, name) or database.artifacts_of(uri, name)
    found = client.get_experiment_by_name(name)
    if found is None:
        id_ = client.create_experiment(name, own, {"mlflow.experimentKind": "custom_model_development"})
        return client.get_experiment(id_)
    if found.lifecycle_stage == DELETED:
        raise InputError(
            f"the experiment {name!r} in {public(uri)} is deleted: restore it (mlflow experiments restore "
            f"--experiment-id {found.experiment_id}), delete it for good (mlflow gc), or choose another --name"
        )
    return relocated(client, uri, found)


def _identity(client: MlflowClient, experiment: Experiment) -> str:
    """The store's identity, given to it at its first use."""
    known = experiment.tags.get(IDENTITY)
    if known is None:
        known = uuid.uuid4().hex
        client.set_experiment_tag(experiment.experiment_id, IDENTITY, known)
    return known


def _parent(client: MlflowClient, experiment_id: str, name: str) -> str:
    found = sweep_run(client, experiment_id)
    if found is not None:
        return str(found.info.run_id)
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
