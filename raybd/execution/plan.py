"""SweepPlan: the trials of a sweep that has been checked, what is finished of them, and where its records go."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from raybd.errors import InputError
from raybd.execution.outcome import Outcome
from raybd.execution.queue import Finished
from raybd.tracking.reading import load_record
from raybd.tracking.store import Store
from raybd.tracking.uploads import ensure_uploaded, upload_pending
from raybd.trials.config import TrialConfig
from raybd.trials.records import FINISHED, Record, SweepFolder
from raybd.trials.validate import prepare
from raybd.types import Data


@dataclass(frozen=True)
class SweepPlan:
    """A sweep that has been checked: what is done already and what there is to do."""

    name: str
    todo: list[TrialConfig]
    keys: list[str]  # of every trial, done or not
    data: dict[str, Data]
    folder: SweepFolder
    store: Store
    finished: "FinishedTrials"

    @property
    def known(self) -> int:
        """How many trials were done before."""
        return len(self.keys) - len(self.todo)


@dataclass
class FinishedTrials(Finished):
    """The trials of a sweep that have finished, as the tracking store and this disk have them."""

    folder: SweepFolder
    store: Store
    runs: dict[str, str]  # key -> run id, of those that the store has
    metrics: bool = False  # whether outcomes shall hold the trials' metrics

    def outcome(self, config: TrialConfig) -> Outcome | None:
        """The outcome of a trial that has finished; one that only the disk has is uploaded."""
        key = config.key
        if key not in self.runs and not ensure_uploaded(self.store.address, self.folder.trial(key)):
            return None
        record = self._record(key) if self.metrics else None
        return Outcome(key, config.label, FINISHED, metrics=record.metrics if record else {})

    def _record(self, key: str) -> Record:
        return self.folder.trial(key).read() or load_record(self.runs[key], self.store.address.uri)

    def refresh(self) -> None:
        """Ask the store again; where it is away, what it said before stands."""
        with suppress(Exception):
            self.runs = self.store.finished()


def plan_sweep(
    name: str,
    configs: Sequence[TrialConfig],
    results: str | Path = "results",
    tracking_uri: str | None = None,
    data_root: str | Path | None = None,
) -> SweepPlan:
    """Check everything that can be wrong before any work, and leave out what is finished.

    Raises:
        InputError: a config, the data, the results folder or the tracking store is not usable.
    """
    known, data = prepare(configs, data_root)
    return resume(SweepFolder.of(results, name), known, data, tracking_uri)


def resume(
    folder: SweepFolder, known: Sequence[TrialConfig], data: dict[str, Data], tracking_uri: str | None = None
) -> SweepPlan:
    """The plan for trials that `prepare` has let pass: without those that the tracking store has finished.

    Raises:
        InputError: the tracking store is not usable.
    """
    name = folder.path.name
    store = Store.open(name, tracking_uri)
    try:
        upload_pending(folder, store.address)
        finished = FinishedTrials(folder, store, store.finished())
        todo = [config for config in known if finished.outcome(config) is None]
    except Exception as error:
        raise InputError(f"the tracking store has gone away: {type(error).__name__}: {error}") from error
    for config in todo:
        folder.trial(config.key).clear_record()  # an old failure is not this sweep's
    return SweepPlan(name, todo, [config.key for config in known], data, folder, store, finished)
