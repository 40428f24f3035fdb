"""Record, TrialFolder and SweepFolder: trials on disk, with all that is uploaded, so that a lost store loses no trial.

    history.jsonl     one line an epoch, as it ends      trial.json     settings, status, last metrics, environment
    per_sample.npz    predictions and roles              figures/*.png  pictures
    arrays.npz        arrays that metrics keep           probes/*.npz   the same, while it runs
    sent.json         what each tracking store has       checkpoint.pt  while it runs
    networks/EPOCH    networks that are kept        crash_report.txt  of a killed attempt: reason, stack of each thread
    train.log, predict.log  output of a user's commands

Imports no torch and no MLflow.
"""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from raybd.errors import InputError
from raybd.utils.files import expanded, write_text
from raybd.utils.locks import lock
from raybd.utils.metric_names import TARGET

FINISHED, FAILED = "FINISHED", "FAILED"
STOPPED = "STOPPED"  # by its early warning, whose verdict was sure: no measured result, and no failure


@dataclass(frozen=True, kw_only=True)
class Record:
    """The record of a trial that has ended."""

    key: str
    label: str
    config: dict[str, Any]
    params: dict[str, Any]  # the flattened config
    status: str  # FINISHED, FAILED or STOPPED
    key_format: int = 1  # version of the rule that made `key`
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)  # names of the classes, by number; none: not known
    environment: dict[str, str] = field(default_factory=dict)
    started: int = 0  # milliseconds since 1970
    seconds: float = 0.0
    error: str = ""
    traceback: str = ""

    @property
    def finished(self) -> bool:
        """Whether the trial finished, without an error."""
        return self.status == FINISHED

    @property
    def text(self) -> str:
        """The description of its run in the MLflow UI, in Markdown."""
        if self.status == STOPPED:
            return f"**{self.label}** was {self.error}"
        if self.status != FINISHED:
            return f"**{self.label}** failed: {self.error}"
        metrics, target = self.metrics, self.tags.get(TARGET)
        of = f"the target, {target}," if target else "the target"
        return (
            f"**{self.label}**: clean accuracy {metrics['accuracy/clean']:.2%}, "
            f"attack success {metrics['attack_success']:.2%}, robust accuracy {metrics['accuracy/robust']:.2%}.\n\n"
            f"`attack_success`: triggered test images whose true class is not {of} predicted as it; "
            "`accuracy/robust`: the same images predicted as their true class. "
            "Metrics have the epoch as step; losses are in nats."
        )


@dataclass(frozen=True)
class TrialFolder:
    """The folder of one trial."""

    path: Path

    @property
    def checkpoint(self) -> Path:
        """The checkpoint of its training."""
        return self.path / "checkpoint.pt"

    @property
    def history_file(self) -> Path:
        """The history; raybd 0.1 called it journal.jsonl."""
        old = self.path / "journal.jsonl"
        return old if old.exists() else self.path / "history.jsonl"

    @property
    def probes(self) -> Path:
        """The folder of the probes' arrays, EPOCH.npz each."""
        return self.path / "probes"

    @property
    def networks(self) -> Path:
        """The folder of the networks that are kept, a folder EPOCH each, in MLflow's model format."""
        return self.path / "networks"

    @property
    def kept_networks(self) -> dict[int, Path]:
        """The networks that are kept, by their epochs in order."""
        found = {int(path.name): path for path in self.networks.glob("*") if path.name.isdecimal()}
        return dict(sorted(found.items()))

    @property
    def crash_report(self) -> Path:
        """The reason why an attempt was killed, and the stack of each of its threads."""
        return self.path / "crash_report.txt"

    @property
    def artifacts(self) -> list[Path]:
        """The files to upload, besides trial.json."""
        found = [*self.path.glob("*.npz"), *self.path.glob("*.log"), *self.path.glob("figures/*.png")]
        return sorted(p for p in found if p.is_file())

    def start(self, epoch: int) -> None:
        """Prepare for an attempt that resumes after `epoch` (0: from the start); later epochs are deleted."""
        self.path.mkdir(parents=True, exist_ok=True)
        kept = [line for line in self.history() if line["epoch"] <= epoch]
        write_text(self.history_file, "".join(json.dumps(line) + "\n" for line in kept))
        for path in self.probes.glob("*.npz"):
            if int(path.stem) > epoch:
                path.unlink()
        for number, folder in self.kept_networks.items():
            if number > epoch:
                shutil.rmtree(folder)
        (self.path / "sent.json").unlink(missing_ok=True)
        self.crash_report.unlink(missing_ok=True)
        self.clear_record()

    @contextmanager
    def locked(self, heartbeat: Callable[[], None]) -> Iterator[None]:
        """Lock the trial; waits for an earlier attempt that still runs although its driver gave up on it."""
        self.path.mkdir(parents=True, exist_ok=True)
        with lock(self.path / ".lock", heartbeat):
            yield

    def clear_record(self) -> None:
        """Delete the record of an earlier attempt."""
        (self.path / "trial.json").unlink(missing_ok=True)

    def append(self, epoch: int, metrics: dict[str, float]) -> None:
        """Append the metrics of an epoch to the history."""
        line = {"epoch": epoch, "time": int(time.time() * 1000), "metrics": metrics}
        with self.history_file.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def history(self) -> list[dict[str, Any]]:
        """The epochs so far; a line cut short by a crash is left out."""
        path = self.history_file
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}\n")]

    def write(self, record: Record) -> None:
        """Write the record, whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / "trial.json", json.dumps(asdict(record), indent=1))

    def read(self) -> Record | None:
        """The record of the trial; None if it has not ended, or if the file is damaged."""
        fields = _read(self.path / "trial.json")
        return Record(**fields) if fields else None

    def upload_states(self) -> dict[str, dict[str, Any]]:
        """What has been uploaded to each tracking store, by the store's identity."""
        return _read(self.path / "sent.json")

    def upload_state(self, store: str) -> dict[str, Any]:
        """What has been uploaded to the tracking store of identity `store`: run_id, number of history lines, done."""
        return self.upload_states().get(store, {"run_id": "", "lines": 0, "done": False})

    def write_upload_state(self, store: str, state: dict[str, Any]) -> None:
        """Write what has been uploaded to the tracking store of identity `store`."""
        path = self.path / "sent.json"
        write_text(path, json.dumps(_read(path) | {store: state}))


@dataclass(frozen=True)
class SweepFolder:
    """The folder of one sweep under the results folder."""

    path: Path

    @classmethod
    def of(cls, results: str | Path, name: str) -> "SweepFolder":
        """The folder of sweep `name`; made if need be.

        Raises:
            InputError: the name cannot be a folder's, or the folder cannot be written to.
        """
        if problems := check_name(name):
            raise InputError(problems)
        path = expanded(results) / name
        try:
            (path / "trials").mkdir(parents=True, exist_ok=True)
            probe = path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise InputError(f"the results folder {path} cannot be written to: {error.strerror}") from error
        return cls(path)

    @classmethod
    def find(cls, results: str | Path, name: str) -> "SweepFolder | None":
        """The folder of sweep `name` if there is one."""
        path = expanded(results) / name
        return cls(path) if path.is_dir() else None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the sweep: two drivers at once would run its trials twice.

        Raises:
            InputError: another process holds it, or the folder cannot be written to.
        """
        sweep_lock = FileLock(self.path / ".lock")
        try:
            sweep_lock.acquire(timeout=0)
        except Timeout:
            raise InputError(f"another process is at work on {self.path}: wait for it, or use another name") from None
        except OSError as error:
            raise InputError(f"the sweep's folder {self.path} cannot be written to: {error.strerror}") from error
        try:
            yield
        finally:
            sweep_lock.release()

    def trial(self, key: str) -> TrialFolder:
        """The folder of the trial with this key."""
        return TrialFolder(self.path / "trials" / key)

    def pending_uploads(self, store: str) -> Iterator[TrialFolder]:
        """Folders of ended trials that are not completely uploaded to the tracking store of identity `store`."""
        for path in sorted((self.path / "trials").glob("*/trial.json")):
            folder = TrialFolder(path.parent)
            if not folder.upload_state(store)["done"]:
                yield folder


def check_name(name: str) -> list[str]:
    """Why `name` cannot be a sweep's; empty if it can."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._+=-]{0,99}", name) and not name.endswith((" ", ".")):
        return []
    return [
        f"{name!r} cannot name a sweep (allowed: letters, digits, space and . _ + = -, "
        "beginning with a letter or digit, at most 100)"
    ]


def _read(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; empty where there is none, or where a crash of the machine has spoilt it."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found
