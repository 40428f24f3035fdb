"""Records of trials that have ended: finished, failed, or died before they could write one."""

import json
import logging
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import raybd
from raybd.data.class_names import have_names, named
from raybd.errors import WarnedError
from raybd.execution import memory
from raybd.execution.setup import TrialSetup
from raybd.tracking.uploads import TrialRun
from raybd.trials.base import TrialResult
from raybd.trials.config import KEY_FORMAT, TrialConfig
from raybd.trials.records import FAILED, FINISHED, STOPPED, Record
from raybd.utils.environment import environment
from raybd.utils.metric_names import CLASSES, TARGET, WARNING

log = logging.getLogger(__name__)
TAG_LENGTH = 500  # characters of an error in a tag
TAG_LIMIT = 5000  # characters; older MLflows refuse more


@dataclass(frozen=True)
class Start:
    """The start of an attempt, by the wall clock and by the monotonic clock."""

    wall: float = field(default_factory=time.time)
    monotonic: float = field(default_factory=time.monotonic)

    @property
    def milliseconds(self) -> int:
        """The start in milliseconds since 1970."""
        return round(1000 * self.wall)

    @property
    def elapsed(self) -> float:
        """Seconds since the start, by the monotonic clock."""
        return time.monotonic() - self.monotonic


def tags_of(config: TrialConfig, setup: TrialSetup, classes: Sequence[str] = ()) -> dict[str, str]:
    """The tags of a trial's run in MLflow, on data whose classes have these names."""
    return _class_tags(config, classes) | {
        "raybd.kind": "trial",
        "raybd.key": config.key,
        "raybd.key_format": str(KEY_FORMAT),
        "raybd.version": raybd.__version__,
        "raybd.commit": environment()["commit"],
        "raybd.data_fingerprint": config.fingerprint,
        "raybd.sweep": setup.name,
        "raybd.device": setup.device,
    }


def _class_tags(config: TrialConfig, classes: Sequence[str]) -> dict[str, str]:
    """The names of the classes, where there are any and they fit into a tag, and that of the target."""
    text = json.dumps(list(classes), ensure_ascii=False)
    tags = {CLASSES: text} if have_names(classes) and len(text) <= TAG_LIMIT else {}
    one = config.attack.labels == "all_to_one" and not config.attack.many_targets and config.poison_rate > 0
    targets = dict.fromkeys(named(member.attack.target, classes) for member in config.attack.members()) if one else ()
    return tags | ({TARGET: ", ".join(targets)} if targets else {})


def finished_record(config: TrialConfig, tags: dict[str, str], start: Start, result: TrialResult) -> Record:
    """The record of a trial that ended with `result`."""
    ending = {"metrics": result.metrics, "manifest": result.manifest, "classes": list(result.classes)}
    return _record(config, tags, start, status=FINISHED, **ending)


def stopped_record(config: TrialConfig, tags: dict[str, str], start: Start, warned: WarnedError) -> Record:
    """The record of a trial that its early warning stopped."""
    tags = tags | {WARNING: f"{warned.probability:.4f}"}
    return _record(config, tags, start, status=STOPPED, error=str(warned))


def failed_record(config: TrialConfig, tags: dict[str, str], start: Start, error: Exception) -> Record:
    """The record of a trial that `error` ended."""
    message = f"{type(error).__name__}: {error}"
    trace = "".join(traceback.format_exception(error))
    tags = tags | {"raybd.error": message[:TAG_LENGTH]}
    return _record(config, tags, start, status=FAILED, error=message, traceback=trace)


def _record(config: TrialConfig, tags: dict[str, str], start: Start, **ending: Any) -> Record:
    return Record(
        key=config.key,
        label=config.label,
        config=config.to_dict(),
        params=config.params,
        key_format=KEY_FORMAT,
        tags=tags | {"raybd.peak_memory_mib": f"{memory.peak():.0f}"},
        environment=environment(tags["raybd.device"]),
        started=start.milliseconds,
        seconds=start.elapsed,
        **ending,
    )


def record_death(config: TrialConfig, setup: TrialSetup, error: str, trace: str = "") -> None:
    """Write and upload the record of a trial whose process died before it could."""
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
        log.warning("the record of the failed trial %s could not be written: %s", config.label, failure)
