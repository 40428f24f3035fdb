"""What stopping on an early warning saves of a sweep that ran whole, and how far it moves the boundary.

A trial that is stopped is the same as a whole one until then, so a sweep need not run a second time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.region_map import DefendedRegionMap
from analysis.signal import csv_files
from analysis.signal.warning import DEFENDER, STOP_SURE, warning_pipeline
from analysis.verdict import DECIDED
from raybd.early_warning import due_epoch
from raybd.errors import InputError

Floats = NDArray[np.float64]
EPOCHS, SHARE = "epochs", "share of epochs"  # columns: of a whole trial; that has passed when the warning is due
EARLY = "early "  # before the name of a measure that trials have at their end too
RATES = ["clean_accuracy", "attack_success"]


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A sweep with --stop-on-warning beside the same one without; each attack's warning has not seen that attack."""

    stopped: int
    poisoned: int  # trials
    wrong: int  # stopped although the verdict on their cell is the other one
    undecided: int  # stopped although their cell is undecided
    saved: float  # share of the seconds of all trials
    moved: float  # decades by which the boundary over poison rates moves, mean over lines
    farthest: float  # likewise, the largest
    lines: pd.DataFrame  # a row a line: both boundaries and `moved`

    def __str__(self) -> str:
        return (
            f"{self.stopped} of {self.poisoned} trials with poison are stopped ({self.wrong} wrongly, "
            f"{self.undecided} of undecided settings); {self.saved:.0%} of the time is saved; the boundary moves by "
            f"{self.moved:.2f} decades in the mean of {len(self.lines)} lines, by {self.farthest:.2f} at most"
        )


def early_trials(
    frame: pd.DataFrame, histories: pd.DataFrame, share: float = 0.2, patterns: Sequence[str] = (DEFENDER,)
) -> pd.DataFrame:
    """The trials of a canonical frame, with the measures that match `patterns` as they are when a warning is due.

    Args:
        frame: as `DefendedRegionMap.from_frame` takes it.
        histories: of the same trials, as `raybd.tracking.load_histories` gives them.
        share: of the epochs that have passed.
        patterns: of the names of measures.
    """
    names = _matching(histories, patterns)
    epochs = histories.groupby("run_id")["epoch"].max().rename(EPOCHS)
    due = epochs.map(lambda number: due_epoch(share, number))
    early = (
        histories[histories["epoch"] <= histories["run_id"].map(due)]
        .sort_values("epoch")
        .groupby("run_id")[names]
        .last()
    )
    early = early.rename(columns={name: f"{EARLY}{name}" for name in names if "/" not in name})
    found = frame.merge(early.join(epochs), left_on="run_id", right_index=True)
    return found.assign(**{SHARE: found["run_id"].map(due) / found[EPOCHS]})


def replay(trials: pd.DataFrame, sure: float = STOP_SURE, patterns: Sequence[str] = (DEFENDER,)) -> Replay:
    """What --stop-on-warning would have done to a sweep.

    Args:
        trials: as `early_trials` makes them.
        sure: the probability from which the warning is sure, and under one less.
        patterns: of the names of the measures from which the warning is made.

    Raises:
        InputError: there are no such measures, or all verdicts but of one attack are equal.
    """
    names = _matching(trials, [pattern if "/" in pattern else f"{EARLY}{pattern}" for pattern in patterns])
    if not names:
        raise InputError(f"no measure matches {' or '.join(patterns)}")
    frame = frame_of(trials)
    whole = DefendedRegionMap.from_frame(frame)
    verdicts = trials["run_id"].map({run: cell.verdict.status for cell in whole.cells for run in cell.verdict.evidence})
    label = verdicts.map(lambda status: float(status == "backdoored") if status in DECIDED else np.nan)
    poisoned = (trials["poison_rate"] > 0).to_numpy()
    probability = _unseen(trials[names].to_numpy(float), label.to_numpy(float), trials["attack.name"], poisoned)
    stop = poisoned & (np.maximum(probability, 1 - probability) >= sure)
    lines = _lines(whole, DefendedRegionMap.from_frame(_stopped(frame, stop, probability)))
    known = stop & label.notna().to_numpy()
    return Replay(
        stopped=int(stop.sum()),
        poisoned=int(poisoned.sum()),
        wrong=int(((probability > 0.5) != (label == 1))[known].sum()),
        undecided=int((stop & ~known).sum()),
        saved=float(((1 - trials[SHARE]) * trials["seconds"])[stop].sum() / trials["seconds"].sum()),
        moved=float(lines["moved"].mean()),
        farthest=float(lines["moved"].max()),
        lines=lines,
    )


def frame_of(trials: pd.DataFrame) -> pd.DataFrame:
    """The canonical frame of which `early_trials` made `trials`."""
    measures = [name for name in map(str, trials) if "/" in name or name.startswith(EARLY)]
    return trials.drop(columns=[*measures, EPOCHS, SHARE])


def _matching(table: pd.DataFrame, patterns: Sequence[str]) -> list[str]:
    return [name for name in map(str, table) if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _unseen(x: Floats, label: Floats, attack: "pd.Series[Any]", poisoned: NDArray[np.bool_]) -> Floats:
    """(n,) the probability for each trial with poison, by a warning fitted to the decided trials of other attacks."""
    found = np.full(len(x), np.nan)
    known = ~np.isnan(label)
    for name in attack[poisoned].unique():
        own = poisoned & (attack == name).to_numpy()
        others = known & ~own
        if len(np.unique(label[others])) < 2:
            raise InputError(f"the trials of other attacks than {name} have no two verdicts")
        found[own] = warning_pipeline().fit(x[others], label[others]).predict_proba(x[own])[:, 1]
    return found


def _stopped(frame: pd.DataFrame, stop: NDArray[np.bool_], probability: Floats) -> pd.DataFrame:
    """The frame of the sweep in which these trials were stopped."""
    status = frame["status"] if "status" in frame else pd.Series("FINISHED", index=frame.index)
    changed = frame.assign(status=status.where(~stop, "STOPPED"), warning=np.where(stop, probability, np.nan))
    return changed.assign(**{name: changed[name].astype(float).where(~stop) for name in RATES})


def _lines(whole: DefendedRegionMap, stopped: DefendedRegionMap) -> pd.DataFrame:
    """Both boundaries along the poison rate, and by how many decades they are apart; none counts as the lowest rate."""
    one, other = (found.boundary("poison_rate") for found in (whole, stopped))
    keys = [name for name in one if name not in ("largest defended", "low", "high", "holes", "reason")]
    both = one.merge(other, on=keys, suffixes=("", " stopped")) if keys else one.join(other, rsuffix=" stopped")
    lowest = min(float(str(cell.setting["poison_rate"])) for cell in whole.cells if cell.poisoned)
    ends = [np.log10(both[f"largest defended{end}"].fillna(lowest)) for end in ("", " stopped")]
    columns = [*keys, "largest defended", "largest defended stopped"]
    return both[columns].assign(moved=(ends[0] - ends[1]).abs())


def write_trials(trials: pd.DataFrame, path: str | Path) -> Path:
    """Write trials as CSV, to be read by `read_trials`; where they are.

    Raises:
        InputError: the file cannot be written.
    """
    return csv_files.write(trials, path)


def read_trials(path: str | Path) -> pd.DataFrame:
    """The trials that `write_trials` wrote.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    return csv_files.read(path, "trials", ("run_id", "attack.name", "poison_rate", EPOCHS, SHARE))
