"""One attempt at a trial: runs it, keeps its record and uploads it. Independent of Ray."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace

import torch

from raybd.data.residency import fits, streamed
from raybd.early_warning import WarningModel, last_values, stage_due
from raybd.errors import DivergedError, EndRequestedError, InputError, PoisoningError, ScriptError, WarnedError
from raybd.execution import memory
from raybd.execution.kept_networks import KeptNetworks
from raybd.execution.outcome import Outcome
from raybd.execution.record import Start, failed_record, finished_record, stopped_record, tags_of
from raybd.execution.setup import TrialSetup
from raybd.models.batch_size import set_memory_share
from raybd.pixels import is_streamed
from raybd.tracking.client import one_line
from raybd.tracking.uploads import TrialRun, close_abandoned_run, ensure_uploaded
from raybd.training import Checkpoint, Ranks
from raybd.training.data_parallel import lost_ranks
from raybd.trials.artifacts import save_artifacts, save_probe_arrays
from raybd.trials.base import TrialSession
from raybd.trials.config import TrialConfig
from raybd.trials.model import NETWORK, SCRIPT
from raybd.trials.records import FAILED, STOPPED, Record, TrialFolder
from raybd.trials.run import run_checked
from raybd.types import Data, Report
from raybd.utils.ending import ending_heartbeat
from raybd.utils.metric_names import UNDERTRAINED

log = logging.getLogger(__name__)
TIGHT = 0.25  # of their usual memory that measures may take after it ran out
NOT_RETRYABLE = (InputError, PoisoningError, DivergedError, ScriptError)  # another attempt would end the same way


def run_attempt(
    config: TrialConfig, data: Data, setup: TrialSetup, heartbeat: Callable[[], None] = lambda: None
) -> Outcome:
    """Run one trial, write its folder, upload it to the tracking store. A failure is an outcome, not an exception.

    The trial's folder is locked: if another process runs the trial, this one waits, and does not run it again if that
    one finished it. A trial that is asked to end (raybd/utils/ending.py) is stopped after its next checkpoint.
    """
    torch.set_num_threads(setup.threads)
    set_memory_share(setup.share, TIGHT if setup.tight else 1.0)
    memory.reset_peak()
    folder, heartbeat = setup.folder.trial(config.key), ending_heartbeat(heartbeat)
    try:
        with folder.locked(heartbeat):
            if (known := _finished_before(folder, setup)) is None:
                return _run(config, data, setup, heartbeat)
            Ranks.of(config.train.workers).decide(False)  # no training for the other ranks
            return known
    except EndRequestedError:
        close_abandoned_run(setup.address, folder)
        return stopped(config, "asked to end")
    except OSError as error:  # e.g. a full disk: no record can be written
        return Outcome(config.key, config.label, FAILED, error=f"OSError: {error}", uploaded=False, died=True)
    finally:
        memory.release_memory()


def stopped(config: TrialConfig, why: str) -> Outcome:
    """The outcome of an attempt that ended because it was asked to."""
    return Outcome(config.key, config.label, FAILED, error=why, stopped=True, uploaded=False)


def finished_on_disk(folder: TrialFolder, setup: TrialSetup) -> Outcome | None:
    """The outcome of a trial that has finished on this disk, or that its early warning stopped; None if neither."""
    record = folder.read()
    if record is None or not (record.finished or (setup.warning and record.status == STOPPED)):
        return None
    return _outcome(record, setup, uploaded=bool(folder.upload_state(setup.address.identity)["done"]))


def _finished_before(folder: TrialFolder, setup: TrialSetup) -> Outcome | None:
    """The outcome of a trial that finished earlier, uploaded if need be; None if it must run (again)."""
    outcome = finished_on_disk(folder, setup)
    if outcome is None or outcome.warned:
        return outcome
    try:
        return replace(outcome, uploaded=True) if ensure_uploaded(setup.address, folder) else None
    except Exception as error:  # noqa: BLE001 - a store may raise anything; the trial has finished
        log.warning("trial %s is not uploaded yet and stays in %s: %s", outcome.key, folder.path, one_line(error))
        return replace(outcome, uploaded=False)


def _run(config: TrialConfig, data: Data, setup: TrialSetup, heartbeat: Callable[[], None]) -> Outcome:
    start, folder = Start(), setup.folder.trial(config.key)
    checkpoint, note = _resume(setup, folder, config.train.epochs)
    tags = tags_of(config, setup, data.classes) | ({"raybd.note": note} if note else {})
    run = TrialRun(setup.address, folder, config.label, tags, start.milliseconds)

    networks = KeptNetworks(setup.keep_models, folder)

    def report(epoch: Report) -> None:
        heartbeat()
        networks.add(epoch, data)
        save_probe_arrays(folder, epoch)
        folder.append(epoch.epoch, epoch.metrics)
        run.log()
        if setup.warning and config.poison_rate:
            _stop_if_sure(setup.warning, config, folder, epoch.epoch)

    shared, failure = setup.folder.path / "shared", None
    try:
        Ranks.of(config.train.workers).decide(True)  # the other ranks train too
        images, history = _placed(config, setup, data), folder.history()
        session = TrialSession(report, checkpoint, shared, heartbeat, history, folder.path, setup.function)
        result = run_checked(config, images, session)
        save_artifacts(folder, config, result, setup.formats(config))
        networks.end(result.model, data)
        record = finished_record(config, run.tags | networks.tags, start, result)
    except WarnedError as warned:
        record = stopped_record(config, run.tags, start, warned)
    except Exception as error:
        if lost_ranks(error):  # the failure is another rank's, and the checkpoint is needed
            raise
        failure, record = error, failed_record(config, run.tags, start, error)
    heartbeat()
    _save_record(folder, record)
    outcome = _outcome(record, setup, uploaded=run.finish(record))
    permanent, out_of_memory = isinstance(failure, NOT_RETRYABLE), memory.is_out_of_memory(failure)
    note = "; ".join(said for said in (note, _undertrained(record), networks.note) if said)
    return replace(outcome, note=note, memory=memory.peak(), permanent=permanent, out_of_memory=out_of_memory)


def _stop_if_sure(stages: tuple[WarningModel, ...], config: TrialConfig, folder: TrialFolder, epoch: int) -> None:
    """End the trial where a stage of its early warning is due after `epoch`, and sure."""
    if stage := stage_due(stages, epoch, config.train.epochs):
        probability = stage.probability(last_values(folder.history()))
        if stage.is_sure(probability):
            raise WarnedError(probability, epoch, config.train.epochs)


def _placed(config: TrialConfig, setup: TrialSetup, data: Data) -> Data:
    """`data` where the trial has them: on its device, but for a user's script, which is given files."""
    if config.model.kind is SCRIPT:
        return data
    return on_device(setup, _thrifty(config, data) if setup.tight else data)


def _thrifty(config: TrialConfig, data: Data) -> Data:
    """`data` streamed, so that a trial whose memory ran out holds no copy of it; where its defence can do with that."""
    return streamed(data) if config.model.kind is NETWORK and config.defence.streams else data


def _undertrained(record: Record) -> str:
    """A note where the network has learnt nothing that shows: the trial has finished all the same."""
    return "undertrained: one class predicted for every test image" if record.metrics.get(UNDERTRAINED) else ""


def _save_record(folder: TrialFolder, record: Record) -> None:
    folder.write(record)
    folder.checkpoint.unlink(missing_ok=True)
    shutil.rmtree(folder.probes, ignore_errors=True)


def _outcome(record: Record, setup: TrialSetup, uploaded: bool) -> Outcome:
    metrics = record.metrics if setup.return_metrics else {}
    return Outcome(
        record.key, record.label, record.status, record.seconds, record.error, uploaded=uploaded, metrics=metrics
    )


def _resume(setup: TrialSetup, folder: TrialFolder, epochs: int) -> tuple[Checkpoint, str]:
    """Prepare `folder` for an attempt: the checkpoint of an earlier attempt that died, and a note on it."""
    close_abandoned_run(setup.address, folder)
    checkpoint, note = Checkpoint(folder.checkpoint, setup.checkpoint_seconds, epochs), ""
    state = checkpoint.load()
    if state is not None:
        note = f"resumed from its checkpoint after epoch {state['epoch']}"
    elif folder.checkpoint.exists():
        note = "its checkpoint could not be read: training restarted"
    folder.start(state["epoch"] if state else 0)
    return checkpoint, note


_resident: dict[tuple[str, str], Data] = {}


def on_device(setup: TrialSetup, data: Data) -> Data:
    """`data` on the device of `setup`, streamed to it where it has no room; a worker moves each set only once."""
    device = setup.device
    if device == "cpu":
        return data
    if (data.fingerprint, device) not in _resident:
        _resident.clear()
        placed = data if is_streamed(data.train.x) or fits(data, _room(setup)) else streamed(data)
        _resident[data.fingerprint, device] = placed.to(device)
    return _resident[data.fingerprint, device]


def _room(setup: TrialSetup) -> float:
    """Bytes of images that the trial may hold on its GPU."""
    if setup.image_bytes is not None:
        return setup.image_bytes
    return float(torch.cuda.get_device_properties(0).total_memory) * setup.share / 2
