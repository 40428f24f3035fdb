"""One attempt at a trial, with its records, in whatever process. Knows no Ray."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace

import torch

from raybd.errors import DivergedError, InputError, PoisoningError
from raybd.execution import memory
from raybd.execution.outcome import Outcome
from raybd.execution.record import Start, failed_record, finished_record, tags_of
from raybd.execution.setup import TrialSetup
from raybd.tracking.client import one_line
from raybd.tracking.uploads import TrialRun, close_abandoned_run, ensure_uploaded
from raybd.training import Checkpoint, Ranks
from raybd.training.data_parallel import lost_ranks
from raybd.trials.artifacts import keep, keep_probe
from raybd.trials.base import TrialSession
from raybd.trials.config import TrialConfig
from raybd.trials.records import FAILED, Record, TrialFolder
from raybd.trials.run import run_checked
from raybd.types import Data, Report

log = logging.getLogger(__name__)
NOT_RETRYABLE = (InputError, PoisoningError, DivergedError)  # another attempt would end the same way


def run_attempt(
    config: TrialConfig, data: Data, setup: TrialSetup, heartbeat: Callable[[], None] = lambda: None
) -> Outcome:
    """Run one trial, write its folder, upload it to the tracking store. A failure is an outcome, not an exception.

    One process at a time: another that is still at it is waited for, and a trial that it finished is not run again.
    """
    torch.set_num_threads(setup.threads)
    memory.forget_peak()
    folder = setup.folder.trial(config.key)
    try:
        with folder.locked(heartbeat):
            if (known := _finished_before(folder, setup)) is None:
                return _run(config, data, setup, heartbeat)
            Ranks.of(config.train.workers).decide(False)  # other ranks need not follow
            return known
    except OSError as error:  # a full disk, say: there is nowhere to keep a record
        return Outcome(config.key, config.label, FAILED, error=f"OSError: {error}", sent=False, died=True)
    finally:
        memory.give_back()


def finished_on_disk(folder: TrialFolder, setup: TrialSetup) -> Outcome | None:
    """The outcome of a trial that has finished on this disk; None if it has not."""
    record = folder.read()
    if record is None or not record.finished:
        return None
    return _outcome(record, setup, sent=bool(folder.sent(setup.address.name)["done"]))


def _finished_before(folder: TrialFolder, setup: TrialSetup) -> Outcome | None:
    """The outcome of a trial that finished here, now or long ago, and that the store has, or gets if it can."""
    known = finished_on_disk(folder, setup)
    if known is None:
        return None
    try:
        return replace(known, sent=True) if ensure_uploaded(setup.address, folder) else None
    except Exception as error:  # noqa: BLE001 - whatever a store does, the trial has finished
        log.warning("trial %s stays on disk in %s: %s", known.key, folder.path, one_line(error))
        return replace(known, sent=False)


def _run(config: TrialConfig, data: Data, setup: TrialSetup, heartbeat: Callable[[], None]) -> Outcome:
    start, folder = Start(), setup.folder.trial(config.key)
    checkpoint, note = _resume(setup, folder)
    tags = tags_of(config, setup) | ({"raybd.note": note} if note else {})
    run = TrialRun(setup.address, folder, config.label, tags, start.milliseconds)

    def report(epoch: Report) -> None:
        heartbeat()
        keep_probe(folder, epoch)
        folder.append(epoch.epoch, epoch.metrics)
        run.log()

    shared, failure = setup.folder.path / "shared", None
    try:
        Ranks.of(config.train.workers).decide(True)  # other ranks follow
        images, history = on_device(setup.device, data), folder.history()
        session = TrialSession(report, checkpoint, shared, heartbeat, history)
        result = run_checked(config, images, session)
        keep(folder, config, result)
        record = finished_record(config, run.tags, start, result)
    except Exception as error:
        if lost_ranks(error):  # the failure is another rank's, and the checkpoint is needed
            raise
        failure, record = error, failed_record(config, run.tags, start, error)
    heartbeat()
    _keep_record(folder, record)
    outcome = _outcome(record, setup, sent=run.finish(record))
    permanent, short = isinstance(failure, NOT_RETRYABLE), memory.ran_out(failure)
    return replace(outcome, note=note, memory=memory.peak(), permanent=permanent, out_of_memory=short)


def _keep_record(folder: TrialFolder, record: Record) -> None:
    folder.write(record)
    folder.checkpoint.unlink(missing_ok=True)
    shutil.rmtree(folder.probes, ignore_errors=True)


def _outcome(record: Record, setup: TrialSetup, sent: bool) -> Outcome:
    metrics = record.metrics if setup.return_metrics else {}
    return Outcome(record.key, record.label, record.status, record.seconds, record.error, sent=sent, metrics=metrics)


def _resume(setup: TrialSetup, folder: TrialFolder) -> tuple[Checkpoint, str]:
    """Make `folder` ready for an attempt, from the checkpoint of an earlier one that died; a note on that second."""
    close_abandoned_run(setup.address, folder)
    checkpoint, note = Checkpoint(folder.checkpoint, setup.checkpoint_seconds), ""
    state = checkpoint.load()
    if state is not None:
        note = f"went on from its checkpoint, after epoch {state['epoch']}"
    elif folder.checkpoint.exists():
        note = "its checkpoint could not be read: it began anew"
    folder.start(state["epoch"] if state else 0)
    return checkpoint, note


_resident: dict[tuple[str, str], Data] = {}


def on_device(device: str, data: Data) -> Data:
    """`data` on `device`; a worker that runs many trials moves a set there once."""
    if device == "cpu":
        return data
    if (data.fingerprint, device) not in _resident:
        _resident.clear()
        _resident[data.fingerprint, device] = data.to(device)
    return _resident[data.fingerprint, device]
