"""One trial with its records, whoever started it: a Ray worker, or this very process. Knows no Ray."""

import logging
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

import raybd
from raybd.errors import DivergedError, InputError, PoisoningError
from raybd.execution import memory
from raybd.tracking.client import first_line
from raybd.tracking.store import Address
from raybd.tracking.uploads import TrialRun, abandon, restore
from raybd.training import Checkpoint
from raybd.trials.artifacts import keep, keep_probe
from raybd.trials.config import KEY_FORMAT, TrialConfig
from raybd.trials.records import FAILED, FINISHED, Record, SweepFolder, TrialFolder
from raybd.trials.run import TrialResult, run_trial
from raybd.types import Data, Report
from raybd.utils.environment import environment

log = logging.getLogger(__name__)
HOPELESS = (InputError, PoisoningError, DivergedError)  # another try would end the same way


@dataclass(frozen=True)
class Setup:
    """What all trials of a sweep share."""

    name: str
    folder: SweepFolder
    address: Address
    threads: int = 1  # of a trial on a CPU
    device: str = "cpu"
    stall_seconds: float = 3600.0  # a trial without a sign of life for so long is hung
    checkpoint_seconds: float = 60.0
    workers: int = 1  # that train a trial's network together, with a GPU each if `device` is one


@dataclass(frozen=True)
class Outcome:
    """How one attempt at a trial ended."""

    key: str
    label: str
    status: str  # FINISHED or FAILED
    seconds: float = 0.0
    error: str = ""
    permanent: bool = False  # failed, and would again
    sent: bool = True
    died: bool = False  # its worker did, or its disk: it could write no record
    note: str = ""  # what else a person should know of this attempt
    earlier: str = ""  # how the attempt before it failed
    memory: float = 0.0  # MiB that its process had resident at the peak; 0: unknown


def run_attempt(config: TrialConfig, data: Data, setup: Setup, heartbeat: Callable[[], None] = lambda: None) -> Outcome:
    """Run one trial, write its folder, bring it to the tracking store. A failure is an outcome, not an exception.

    One process at a time: another that is still at it is waited for, and a trial that it finished is not run again.
    """
    torch.set_num_threads(setup.threads)
    memory.forget_peak()
    folder = setup.folder.trial(config.key)
    try:
        with folder.held(heartbeat):
            return _taken_over(folder, setup.address) or _execute(config, data, setup, heartbeat)
    except OSError as error:  # a full disk, say: there is nowhere to keep a record
        return Outcome(config.key, config.label, FAILED, error=f"OSError: {error}", sent=False, died=True)
    finally:
        memory.give_back()


def finished(folder: TrialFolder, address: Address) -> Outcome | None:
    """The outcome of a trial that has finished on this disk; None if it has not."""
    record = folder.read()
    if record is None or record.status != FINISHED:
        return None
    sent = bool(folder.sent(address.name)["done"])
    return Outcome(record.key, record.label, record.status, record.seconds, sent=sent)


def _taken_over(folder: TrialFolder, address: Address) -> Outcome | None:
    """The outcome of a trial that finished here, now or long ago, and that the store has, or gets if it can."""
    known = finished(folder, address)
    if known is None:
        return None
    try:
        return replace(known, sent=True) if restore(address, folder) else None
    except Exception as error:  # noqa: BLE001 - whatever a store does, the trial has finished
        log.warning("trial %s stays on disk in %s: %s", known.key, folder.path, first_line(error))
        return replace(known, sent=False)


def _execute(config: TrialConfig, data: Data, setup: Setup, heartbeat: Callable[[], None]) -> Outcome:
    start, folder = _Start(time.time(), time.monotonic()), setup.folder.trial(config.key)
    checkpoint, resumed = _begin(setup, folder)
    tags = _tags(config, setup) | ({"raybd.note": resumed} if resumed else {})
    run = TrialRun(setup.address, folder, config.label, tags, start.milliseconds)

    def note(report: Report) -> None:
        heartbeat()
        keep_probe(folder, report)
        folder.append(report.epoch, report.metrics)
        run.log()

    try:
        shared = setup.folder.path / "shared"
        result = run_trial(
            config, _on(setup.device, data), note, checkpoint, shared, heartbeat, folder.history(), setup.workers
        )
        keep(folder, config, result)
        record, permanent = _record(config, run.tags, FINISHED, start, result), False
    except Exception as error:  # noqa: BLE001 - a failed trial is data, whatever failed it
        record, permanent = _record(config, run.tags, FAILED, start, error=error), isinstance(error, HOPELESS)
    heartbeat()
    folder.write(record)
    folder.checkpoint.unlink(missing_ok=True)
    shutil.rmtree(folder.probes, ignore_errors=True)
    sent = run.finish(record)
    return Outcome(
        config.key,
        config.label,
        record.status,
        start.gone,
        record.error,
        permanent,
        sent,
        note=resumed,
        memory=memory.peak(),
    )


@dataclass(frozen=True)
class _Start:
    """When an attempt began: by the clock on the wall, and by one that nobody sets."""

    wall: float
    steady: float

    @property
    def milliseconds(self) -> int:
        """Since 1970."""
        return round(1000 * self.wall)

    @property
    def gone(self) -> float:
        """Seconds since then: never negative, whatever became of the clock on the wall."""
        return time.monotonic() - self.steady


def record_death(config: TrialConfig, setup: Setup, error: str) -> None:
    """Keep a failed record of a trial whose worker died before it could write one."""
    folder = setup.folder.trial(config.key)
    if folder.read() is not None:
        return
    tags = _tags(config, setup) | {"raybd.error": error[:500]}
    words = folder.crash_report
    record = Record(
        key=config.key,
        label=config.label,
        config=config.to_dict(),
        params=config.params,
        status=FAILED,
        key_format=KEY_FORMAT,
        tags=tags,
        started=round(1000 * time.time()),
        error=error,
        traceback=words.read_text() if words.exists() else "",
    )
    try:
        folder.write(record)
        TrialRun(setup.address, folder, config.label, tags, record.started).finish(record)
    except OSError as failure:
        log.warning("the failure of %s could not be kept: %s", config.label, failure)


def _begin(setup: Setup, folder: TrialFolder) -> tuple[Checkpoint, str]:
    """Make `folder` ready for an attempt; an earlier one that died is closed, and gone on with where it can be.

    What became of the earlier one's checkpoint comes second.
    """
    abandon(setup.address, folder)
    checkpoint, note = Checkpoint(folder.checkpoint, setup.checkpoint_seconds), ""
    state = checkpoint.load()
    if state is not None:
        note = f"went on from its checkpoint, after epoch {state['epoch']}"
    elif folder.checkpoint.exists():
        note = "its checkpoint could not be read: it began anew"
    folder.start(state["epoch"] if state else 0)
    return checkpoint, note


def _record(
    config: TrialConfig,
    tags: dict[str, str],
    status: str,
    start: _Start,
    result: TrialResult | None = None,
    error: Exception | None = None,
) -> Record:
    said = f"{type(error).__name__}: {error}" if error else ""
    return Record(
        key=config.key,
        label=config.label,
        config=config.to_dict(),
        params=config.params,
        status=status,
        key_format=KEY_FORMAT,
        tags=tags | {"raybd.peak_memory_mib": f"{memory.peak():.0f}"} | ({"raybd.error": said[:500]} if error else {}),
        metrics=result.metrics if result else {},
        manifest=result.manifest if result else {},
        environment=environment(),
        started=start.milliseconds,
        seconds=start.gone,
        error=said,
        traceback="".join(traceback.format_exception(error)) if error else "",
    )


def _tags(config: TrialConfig, setup: Setup) -> dict[str, str]:
    return {
        "raybd.kind": "trial",
        "raybd.key": config.key,
        "raybd.key_format": str(KEY_FORMAT),
        "raybd.version": raybd.__version__,
        "raybd.commit": environment()["commit"],
        "raybd.data_fingerprint": config.fingerprint,
        "raybd.sweep": setup.name,
        "raybd.device": setup.device,
    }


_resident: dict[tuple[str, str], Data] = {}


def _on(device: str, data: Data) -> Data:
    """`data` on `device`; a worker that runs many trials moves a set there once."""
    if device == "cpu":
        return data
    if (data.fingerprint, device) not in _resident:
        _resident.clear()
        _resident[data.fingerprint, device] = data.to(device)
    return _resident[data.fingerprint, device]
