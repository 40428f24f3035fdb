"""The record of a trial that has ended: finished, failed, or died without a word of its own."""

import logging
import time
import traceback
from dataclasses import dataclass, field
from typing import Any

import raybd
from raybd.execution import memory
from raybd.execution.setup import TrialSetup
from raybd.tracking.uploads import TrialRun
from raybd.trials.base import TrialResult
from raybd.trials.config import KEY_FORMAT, TrialConfig
from raybd.trials.records import FAILED, FINISHED, Record
from raybd.utils.environment import environment

log = logging.getLogger(__name__)
TAG_LENGTH = 500  # characters of an error in a tag


@dataclass(frozen=True)
class Start:
    """When an attempt began: by the clock on the wall, and by one that nobody sets."""

    wall: float = field(default_factory=time.time)
    steady: float = field(default_factory=time.monotonic)

    @property
    def milliseconds(self) -> int:
        """Since 1970."""
        return round(1000 * self.wall)

    @property
    def elapsed(self) -> float:
        """Seconds since then; never negative, whatever became of the clock on the wall."""
        return time.monotonic() - self.steady


def tags_of(config: TrialConfig, setup: TrialSetup) -> dict[str, str]:
    """The tags of a trial's run in MLflow."""
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


def finished_record(config: TrialConfig, tags: dict[str, str], start: Start, result: TrialResult) -> Record:
    """The record of a trial that ended with `result`."""
    return _record(config, tags, start, status=FINISHED, metrics=result.metrics, manifest=result.manifest)


def failed_record(config: TrialConfig, tags: dict[str, str], start: Start, error: Exception) -> Record:
    """The record of a trial that `error` ended."""
    said = f"{type(error).__name__}: {error}"
    trace = "".join(traceback.format_exception(error))
    tags = tags | {"raybd.error": said[:TAG_LENGTH]}
    return _record(config, tags, start, status=FAILED, error=said, traceback=trace)


def _record(config: TrialConfig, tags: dict[str, str], start: Start, **ending: Any) -> Record:
    return Record(
        key=config.key,
        label=config.label,
        config=config.to_dict(),
        params=config.params,
        key_format=KEY_FORMAT,
        tags=tags | {"raybd.peak_memory_mib": f"{memory.peak():.0f}"},
        environment=environment(),
        started=start.milliseconds,
        seconds=start.elapsed,
        **ending,
    )


def record_death(config: TrialConfig, setup: TrialSetup, error: str, trace: str = "") -> None:
    """Keep and upload a failed record of a trial whose process died before it could write one."""
    folder = setup.folder.trial(config.key)
    if folder.read() is not None:
        return
    tags = tags_of(config, setup) | {"raybd.error": error[:TAG_LENGTH]}
    report = folder.crash_report
    record = Record(
        key=config.key,
        label=config.label,
        config=config.to_dict(),
        params=config.params,
        key_format=KEY_FORMAT,
        status=FAILED,
        tags=tags,
        started=Start().milliseconds,
        error=error,
        traceback=trace or (report.read_text() if report.exists() else ""),
    )
    try:
        folder.write(record)
        TrialRun(setup.address, folder, config.label, tags, record.started).finish(record)
    except OSError as failure:
        log.warning("the failure of %s could not be kept: %s", config.label, failure)
