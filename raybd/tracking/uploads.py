"""Uploads of a trial's folder to its run in MLflow: during the trial, at its end, or later."""

import logging
import math
import time
from collections.abc import Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from raybd.errors import public
from raybd.tracking.client import connect, one_line
from raybd.tracking.data_inputs import log_data
from raybd.tracking.metric_table import format_table
from raybd.tracking.networks import artifact
from raybd.tracking.store import NOTE, Address, close, lost, metric_entities
from raybd.trials.records import FINISHED, STOPPED, Record, SweepFolder, TrialFolder
from raybd.utils.metric_names import TABLE, headline

FLUSH_SECONDS = 10.0  # between two uploads of a running trial
METRICS_PER_BATCH = 1000  # MLflow's own limit
ACTIVE, DELETED = "active", "deleted"  # MLflow's lifecycle stages of a run
PARENT = "mlflow.parentRunId"
log = logging.getLogger(__name__)


class TrialRun:
    """The run of a trial in MLflow, uploaded from the trial's folder."""

    def __init__(self, address: Address, folder: TrialFolder, label: str, tags: dict[str, str], started: int) -> None:
        self.address, self.folder, self.label, self.tags, self.started = address, folder, label, tags, started
        self._flushed = time.monotonic()
        self._broken = False

    def log(self) -> None:
        """Upload new lines of the history, at most every FLUSH_SECONDS. Never raises: `finish` uploads the rest."""
        if self._broken or time.monotonic() - self._flushed < FLUSH_SECONDS:
            return
        try:
            self._flush(connect(self.address.uri), {})
        except Exception as error:  # noqa: BLE001 - a store may raise anything; the trial goes on
            self._broken = True
            log.warning(
                "the tracking store %s cannot be reached (%s): the trial goes on and is uploaded at its end",
                public(self.address.uri),
                one_line(error),
            )
        self._flushed = time.monotonic()

    def finish(self, record: Record) -> bool:
        """Upload everything missing and close the run; False, with a warning, if that fails."""
        try:
            upload(self.address, self.folder, record)
        except Exception as error:  # noqa: BLE001 - as above
            log.warning(
                "trial %s is not uploaded yet and stays in %s: %s", record.key, self.folder.path, one_line(error)
            )
            return False
        return True

    def _create(self, client: MlflowClient) -> str:
        """A new run, in the store that the sweep began with: in another, the experiment's number is somebody else's."""
        if found := lost(client, self.address):
            raise MlflowException(f"the tracking store {found}")
        tags = {**self.tags, PARENT: self.address.parent_id}
        run = client.create_run(self.address.experiment_id, self.started, tags, run_name=self.label)
        return str(run.info.run_id)

    def _flush(self, client: MlflowClient, params: dict[str, Any]) -> str:
        state = self.folder.upload_state(self.address.identity)
        if _stage(client, state["run_id"]) != ACTIVE:
            state = {"lines": 0, "done": False}
            state["run_id"] = self._create(client)
            self.folder.write_upload_state(self.address.identity, state)
        history = self.folder.history()
        metrics = metric_entities(map(_headline, history[state["lines"] :]))
        first = [Param(name, str(value)) for name, value in params.items()]
        for start in range(0, max(len(metrics), 1), METRICS_PER_BATCH):
            batch = metrics[start : start + METRICS_PER_BATCH]
            client.log_batch(state["run_id"], batch, [] if start else first)
        self.folder.write_upload_state(self.address.identity, state | {"lines": len(history)})
        return str(state["run_id"])


def upload(address: Address, folder: TrialFolder, record: Record) -> None:
    """Upload the trial in `folder` to the store, or what is missing of it.

    Raises:
        Exception: whatever the store raises; the upload then stays pending.
    """
    client = connect(address.uri)
    run = TrialRun(address, folder, record.label, record.tags, record.started)
    run_id = run._flush(client, record.params)
    tags = [RunTag(name, value) for name, value in {**record.tags, NOTE: record.text}.items()]
    client.log_batch(run_id, tags=tags)
    log_data(client, run_id, record.params)
    history = folder.history()
    if record.status == FINISHED and (gone := _no_longer_measured(history)):
        client.log_batch(run_id, gone)
    for path in [folder.path / "trial.json", *folder.artifacts]:
        client.log_artifact(run_id, str(path), "figures" if path.suffix == ".png" else None)
    if record.status == FINISHED:
        kept = folder.kept_networks
        for epoch, path in kept.items():
            client.log_artifacts(run_id, str(path), artifact(epoch, kept))
    if history:
        client.log_text(run_id, format_table(history), TABLE)
    if record.traceback:
        client.log_text(run_id, record.traceback, "traceback.txt")
    status = "KILLED" if record.status == STOPPED else record.status  # MLflow's nearest word; a tag says the rest
    client.set_terminated(run_id, status, record.started + round(1000 * record.seconds))
    folder.write_upload_state(address.identity, folder.upload_state(address.identity) | {"done": True})


def _headline(line: dict[str, Any]) -> dict[str, Any]:
    """A line of a history with its headline metrics alone."""
    return line | {"metrics": {name: line["metrics"][name] for name in headline(line["metrics"])}}


def _no_longer_measured(history: Sequence[dict[str, Any]]) -> list[Metric]:
    """Headline metrics that only earlier lines have, as nan: MLflow takes the last value logged for the final one."""
    if not history:
        return []
    names = dict.fromkeys(name for line in history for name in headline(line["metrics"]))
    gone = [name for name in names if name not in history[-1]["metrics"]]
    return metric_entities([history[-1] | {"metrics": dict.fromkeys(gone, math.nan)}])


def upload_pending(sweep: SweepFolder, address: Address) -> int:
    """Upload every ended trial of `sweep` that the store does not have; their number.

    Raises:
        Exception: any of the store; earlier uploads stay.
    """
    count = 0
    for folder in sweep.pending_uploads(address.identity):
        if not _adopted(folder, address) and (record := folder.read()):
            upload(address, folder, record)
            count += 1
    return count


def _adopted(folder: TrialFolder, address: Address) -> bool:
    """Whether the trial is uploaded whole by a state that raybd 0.1 wrote, under the spelling of a store's address.

    Such a state is taken over if its run is in this store.
    """
    states = folder.upload_states()
    if address.identity not in states and states:
        client = connect(address.uri)
        for state in states.values():
            if _stage(client, state["run_id"]):
                folder.write_upload_state(address.identity, state)
    return bool(folder.upload_state(address.identity)["done"])


def ensure_uploaded(address: Address, folder: TrialFolder) -> bool:
    """Whether the trial in `folder` has finished and is in the store, to which it is uploaded if it has no run there.

    False if its run was deleted in the store: the trial is then to run again.

    Raises:
        Exception: whatever the store raises.
    """
    record, state = folder.read(), folder.upload_state(address.identity)
    if record is None or record.status != FINISHED:
        return False
    stage = _stage(connect(address.uri), state["run_id"])
    if state["done"] and stage == DELETED:
        return False
    if not (state["done"] and stage == ACTIVE):
        upload(address, folder, record)
    return True


def _stage(client: MlflowClient, run_id: str) -> str:
    """ACTIVE, DELETED (by a user), or "" if the store has no such run, as after it was created anew."""
    if not run_id:
        return ""
    try:
        return str(client.get_run(run_id).info.lifecycle_stage)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return ""
        raise


def close_abandoned_run(address: Address, folder: TrialFolder) -> None:
    """Close the run that an earlier attempt at this trial left open when its worker died, if any."""
    run_id = folder.upload_state(address.identity)["run_id"]
    if not run_id:
        return
    try:
        client = connect(address.uri)
        if client.get_run(run_id).info.status == "RUNNING":
            close(client, run_id, "KILLED")
    except Exception as error:  # noqa: BLE001 - as above
        log.warning("run %s of a dead worker stays open: %s", run_id, one_line(error))
