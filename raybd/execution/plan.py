"""SweepPlan: the validated trials of a sweep, those of them still to run, its data, folder and tracking store."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from raybd.data.residency import room_for_images
from raybd.early_warning import WarningModel
from raybd.errors import InputError
from raybd.execution.outcome import Outcome
from raybd.execution.queue import FinishedTrials
from raybd.execution.resources import KeepModels
from raybd.tracking.reading import load_record
from raybd.tracking.store import Store
from raybd.tracking.uploads import ensure_uploaded, upload_pending
from raybd.trials.config import TrialConfig
from raybd.trials.records import FINISHED, STOPPED, Record, SweepFolder
from raybd.trials.validate import prepare
from raybd.types import Data


@dataclass(frozen=True)
class SweepPlan:
    """A validated sweep: its trials, which of them are still to run, and where records go."""

    name: str
    todo: list[TrialConfig]
    keys: list[str]  # of every trial, finished or not
    data: dict[str, Data]
    folder: SweepFolder
    store: Store
    finished: "StoredTrials"
    figures: str = "all"  # which trials draw theirs: see `TrialSetup`
    varying: tuple[str, ...] = ()  # names of the parameters in which its trials differ
    figure_formats: tuple[str, ...] = ()  # in which they are saved beside PNG
    keep_models: KeepModels = "none"  # see `TrialSetup`
    warning: tuple[WarningModel, ...] = ()  # see `TrialSetup`
    trials: tuple[TrialConfig, ...] = ()  # all of them, finished or not

    @property
    def finished_before(self) -> int:
        """The number of trials that had finished before this start."""
        return len(self.keys) - len(self.todo)


@dataclass
class StoredTrials(FinishedTrials):
    """The finished trials of a sweep, looked up in the tracking store and on this disk."""

    folder: SweepFolder
    store: Store
    runs: dict[str, str]  # key -> run id, of the trials in the store
    metrics: bool = False  # whether outcomes get the trials' metrics

    def outcome(self, config: TrialConfig) -> Outcome | None:
        """The outcome of a trial that has finished, else None; a trial found only on disk is uploaded."""
        key = config.key
        if key not in self.runs and not ensure_uploaded(self.store.address, self.folder.trial(key)):
            return None
        record = self._record(key) if self.metrics else None
        return Outcome(key, config.label, FINISHED, metrics=record.metrics if record else {})

    def _record(self, key: str) -> Record:
        return self.folder.trial(key).read() or load_record(self.runs[key], self.store.address.uri)

    def refresh(self) -> None:
        """Query the store again; if it cannot be reached, the earlier answer stays."""
        with suppress(Exception):
            self.runs = self.store.finished()


def plan_sweep(
    name: str,
    configs: Sequence[TrialConfig],
    results: str | Path = "results",
    tracking_uri: str | None = None,
    data_root: str | Path | None = None,
) -> SweepPlan:
    """Validate `configs` before any work, and leave out the trials that have finished.

    Raises:
        InputError: a config, the data, the results folder or the tracking store is not usable.
    """
    known, data = prepare(configs, data_root, image_bytes=room_for_images(None))
    return resume(SweepFolder.of(results, name), known, data, tracking_uri)


def resume(
    folder: SweepFolder,
    known: Sequence[TrialConfig],
    data: dict[str, Data],
    tracking_uri: str | None = None,
    failed: Collection[str] = (),
) -> SweepPlan:
    """The plan for trials that `prepare` has validated, without those that have finished, or `failed` in this start.

    Raises:
        InputError: the tracking store is not usable.
    """
    name = folder.path.name
    store = Store.open(name, tracking_uri)
    try:
        upload_pending(folder, store.address)
        finished = StoredTrials(folder, store, store.finished())
        todo = [config for config in known if config.key not in failed and finished.outcome(config) is None]
    except Exception as error:
        raise InputError(f"the tracking store can no longer be reached: {type(error).__name__}: {error}") from error
    for trial in (folder.trial(config.key) for config in todo):
        if not ((record := trial.read()) and record.status == STOPPED):
            trial.clear_record()  # of an earlier failure
    keys = [config.key for config in known]
    return SweepPlan(name, todo, keys, data, folder, store, finished, varying=varying(known), trials=tuple(known))


def varying(configs: Sequence[TrialConfig]) -> tuple[str, ...]:
    """The names of the parameters in which `configs` differ, the seed left out."""
    ends = {configs[0].seed, configs[-1].seed} if configs else set()
    values: dict[str, set[str]] = {}
    for config in (config for config in configs if config.seed in ends):  # every setting occurs with every seed
        for name, value in config.params.items():
            values.setdefault(name, set()).add(str(value))
    return tuple(name for name, found in values.items() if len(found) > 1 and name not in ("seed", "fingerprint"))
