"""What goes to MLflow and comes back: an experiment a sweep's name, a parent run a sweep, a child run a trial."""

import json
import logging
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from raybd import sqlite
from raybd.errors import InputError, public
from raybd.experiments import connect, experiments, first_line, resolve, search, there
from raybd.records import FINISHED, Record, SweepFolder, TrialFolder

log = logging.getLogger(__name__)
PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"
PLANNED, ALIVE = "raybd.planned", "raybd.alive"  # tags of the parent run: how many trials; when the driver was there
PLAN = "plan.json"  # its artifact with their keys
FLUSH_SECONDS = 10.0  # how old an epoch's numbers may get before they are sent
ACTIVE, DELETED = "active", "deleted"  # what MLflow calls the stages of a run
METRICS_A_BATCH = 1000  # MLflow's own limit


@dataclass(frozen=True)
class Address:
    """Where a sweep's runs go: all that a worker needs to write there."""

    uri: str
    experiment_id: str
    parent_id: str

    @property
    def name(self) -> str:
        """What trial folders call this store."""
        return f"{public(self.uri)} {self.experiment_id}"


class Store:
    """One sweep's experiment, as its driver sees it."""

    def __init__(self, client: MlflowClient, address: Address) -> None:
        self.client, self.address = client, address

    @classmethod
    def open(cls, name: str, uri: str | None = None) -> "Store":
        """The experiment `name` in the store at `uri` with its parent run; both made if need be.

        Raises:
            InputError: the store cannot be reached or written to.
        """
        uri = resolve(uri)
        sqlite.prepare(uri)
        try:
            client = connect(uri)
            experiment = client.get_experiment_by_name(name)
            made = experiment.experiment_id if experiment else _make(client, name, sqlite.artifacts_of(uri, name))
            return cls(client, Address(uri, made, _parent(client, made, name)))
        except Exception as error:
            raise InputError(f"the tracking store {uri} cannot be used: {first_line(error)}") from error

    def finished(self) -> dict[str, str]:
        """Key -> run id of every trial that has finished."""
        runs = search(self.client, self.address.experiment_id, "FINISHED")
        return {run.data.tags["raybd.key"]: run.info.run_id for run in runs if "raybd.key" in run.data.tags}

    def begin(self, options: dict[str, Any], keys: Sequence[str] | None) -> None:
        """Open the parent run for another round of a sweep and note its options and the `keys` of all its trials.

        None: which trials there will be is being searched.
        """
        parent = self.address.parent_id
        self.client.update_run(parent, status="RUNNING")
        self.client.log_dict(parent, {"keys": list(keys or [])}, PLAN)
        self.client.set_tag(parent, PLANNED, "" if keys is None else len(keys))
        self.sign_of_life()
        self.client.log_dict(parent, options, f"options/{time.strftime('%Y%m%d-%H%M%S')}.json")

    def sign_of_life(self) -> None:
        """Note at the parent run that the driver is there now."""
        self.client.set_tag(self.address.parent_id, ALIVE, _now())

    def end(self, status: str, metrics: dict[str, float], note: str, artifacts: Iterable[Path]) -> None:
        """Close the parent run with its summary; runs of workers that died are closed with it."""
        for run in search(self.client, self.address.experiment_id, "RUNNING"):
            _close(self.client, run.info.run_id, "KILLED")
        parent = self.address.parent_id
        rounds = len(self.client.get_metric_history(parent, "trials"))  # of one step MLflow shows the latest by clock
        self.client.log_batch(parent, metrics=_metrics([{"epoch": rounds, "time": _now(), "metrics": metrics}]))
        self.client.set_tag(parent, NOTE, note)
        for path in artifacts:
            self.client.log_artifact(parent, str(path), "figures" if path.suffix == ".png" else None)
        _close(self.client, parent, status)


class TrialRun:
    """One trial's run, written from its folder: while it goes on, at its end, or whenever the store is back."""

    def __init__(self, address: Address, folder: TrialFolder, label: str, tags: dict[str, str], started: int) -> None:
        self.address, self.folder, self.label, self.tags, self.started = address, folder, label, tags, started
        self._flushed = time.monotonic()
        self._broken = False

    def log(self) -> None:
        """Send the new lines of the journal if the last ones are old enough; never raises, a later send makes good."""
        if self._broken or time.monotonic() - self._flushed < FLUSH_SECONDS:
            return
        try:
            self._flush(connect(self.address.uri), {})
        except Exception as error:  # noqa: BLE001 - whatever a store does, the trial goes on
            self._broken = True
            log.warning("the tracking store %s is away (%s)", public(self.address.uri), first_line(error))
        self._flushed = time.monotonic()

    def finish(self, record: Record) -> bool:
        """Send all that the store lacks and close the run; False, with a warning, where that cannot be done."""
        try:
            send(self.address, self.folder, record)
        except Exception as error:  # noqa: BLE001 - as above
            log.warning("trial %s stays on disk in %s: %s", record.key, self.folder.path, first_line(error))
            return False
        return True

    def _create(self, client: MlflowClient) -> str:
        tags = {**self.tags, PARENT: self.address.parent_id}
        run = client.create_run(self.address.experiment_id, self.started, tags, run_name=self.label)
        return str(run.info.run_id)

    def _flush(self, client: MlflowClient, params: dict[str, Any]) -> str:
        state = self.folder.sent(self.address.name)
        if _stage(client, state["run_id"]) != ACTIVE:
            state = {"lines": 0, "done": False}
            state["run_id"] = self._create(client)
            self.folder.note_sent(self.address.name, state)
        journal = self.folder.journal()
        metrics = _metrics(journal[state["lines"] :])
        entries = [Param(name, str(value)) for name, value in params.items()]
        for start in range(0, max(len(metrics), 1), METRICS_A_BATCH):
            batch = metrics[start : start + METRICS_A_BATCH]
            client.log_batch(state["run_id"], batch, [] if start else entries)
        self.folder.note_sent(self.address.name, state | {"lines": len(journal)})
        return str(state["run_id"])


def send(address: Address, folder: TrialFolder, record: Record) -> None:
    """Bring the trial in `folder` into the store, or the rest of it.

    Raises:
        Exception: whatever the store raises; the folder then stays unsent.
    """
    client = connect(address.uri)
    run = TrialRun(address, folder, record.label, record.tags, record.started)
    run_id = run._flush(client, record.params)
    tags = [RunTag(name, value) for name, value in {**record.tags, NOTE: record.text}.items()]
    client.log_batch(run_id, tags=tags)
    for path in [folder.path / "trial.json", *folder.artifacts]:
        client.log_artifact(run_id, str(path), "figures" if path.suffix == ".png" else None)
    if record.traceback:
        client.log_text(run_id, record.traceback, "traceback.txt")
    client.set_terminated(run_id, record.status, record.started + round(1000 * record.seconds))
    folder.note_sent(address.name, folder.sent(address.name) | {"done": True})


def send_all(sweep: SweepFolder, address: Address) -> int:
    """Bring every trial of `sweep` that has ended and waits on disk into the store; how many there were.

    Raises:
        Exception: whatever the store raises; what had been sent by then stays sent.
    """
    count = 0
    for folder in sweep.unsent(address.name):
        if record := folder.read():
            send(address, folder, record)
            count += 1
    return count


def restore(address: Address, folder: TrialFolder) -> bool:
    """Whether the trial in `folder` has finished and the store has it, which it gets where it knows nothing of it.

    False too where somebody deleted its run, who wants it run again.

    Raises:
        Exception: whatever the store raises.
    """
    record, state = folder.read(), folder.sent(address.name)
    if record is None or record.status != FINISHED:
        return False
    stage = _stage(connect(address.uri), state["run_id"])
    if state["done"] and stage == DELETED:
        return False
    if not (state["done"] and stage == ACTIVE):
        send(address, folder, record)
    return True


def _stage(client: MlflowClient, run_id: str) -> str:
    """ACTIVE, DELETED by somebody, or "" where the store knows no such run: it may have been made anew since."""
    if not run_id:
        return ""
    try:
        return str(client.get_run(run_id).info.lifecycle_stage)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return ""
        raise


def abandon(address: Address, folder: TrialFolder) -> None:
    """Close the run that a worker left open when it died in this trial, if it had come that far."""
    run_id = folder.sent(address.name)["run_id"]
    if not run_id:
        return
    try:
        client = connect(address.uri)
        if client.get_run(run_id).info.status == "RUNNING":
            _close(client, run_id, "KILLED")
    except MlflowException as error:
        log.warning("run %s of a dead worker stays open: %s", run_id, first_line(error))


def _close(client: MlflowClient, run_id: str, status: str) -> None:
    """End the run now, or when it began where the clock has been set back since."""
    client.set_terminated(run_id, status, max(_now(), client.get_run(run_id).info.start_time))


def load_runs(experiment: str | Sequence[str], tracking_uri: str | None = None) -> pd.DataFrame:
    """Every trial of the named experiments, one row each, with columns as mlflow.search_runs names them.

    (That function itself sets the tracking URI of the whole process and of all it starts.)

    Raises:
        InputError: the store cannot be reached or an experiment is not in it.
    """
    names = [experiment] if isinstance(experiment, str) else list(experiment)
    client, known = experiments(names, tracking_uri)
    return pd.DataFrame([_row(run) for name in names for run in search(client, known[name])])


def load_record(run_id: str, tracking_uri: str | None = None) -> Record:
    """What the run of a trial keeps of it: its settings, its last numbers and what it ran on.

    Raises:
        InputError: the store cannot be reached, has no such run, or the run holds no trial.
    """
    uri = there(tracking_uri)
    try:
        with tempfile.TemporaryDirectory() as folder:
            kept = connect(uri).download_artifacts(run_id, "trial.json", folder)
            return Record(**json.loads(Path(kept).read_text()))
    except Exception as error:
        raise InputError(f"no trial can be read from run {run_id} in {uri}: {first_line(error)}") from error


def _row(run: Any) -> dict[str, Any]:
    parts = {"params": run.data.params, "metrics": run.data.metrics, "tags": run.data.tags}
    flat = {f"{kind}.{name}": value for kind, values in parts.items() for name, value in values.items()}
    start = pd.Timestamp(run.info.start_time, unit="ms", tz="UTC")
    return {"run_id": run.info.run_id, "status": run.info.status, "start_time": start} | flat


def _make(client: MlflowClient, name: str, artifacts: str | None) -> str:
    """A new experiment, which the UI shall show as trainings and not as conversations with a language model."""
    return str(client.create_experiment(name, artifacts, {"mlflow.experimentKind": "custom_model_development"}))


def _parent(client: MlflowClient, experiment_id: str, name: str) -> str:
    found = client.search_runs([experiment_id], "tags.`raybd.kind` = 'sweep'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    run = client.create_run(experiment_id, run_name=f"sweep {name}", tags={"raybd.kind": "sweep", "raybd.sweep": name})
    return str(run.info.run_id)


def _metrics(lines: Iterable[dict[str, Any]]) -> list[Metric]:
    return [
        Metric(name, value, line["time"], line["epoch"]) for line in lines for name, value in line["metrics"].items()
    ]


def _now() -> int:
    return int(time.time() * 1000)
