"""What stopping on an early warning saves of a sweep that ran whole, and how far it moves the boundary.

A trial that is stopped is the same as a whole one until then, so a sweep need not run a second time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.region_map import DefendedRegionMap
from analysis.signal.warning import DEFENDER, STOP_SURE, early_values, logged, warning_pipeline
from analysis.verdict import DECIDED
from raybd.early_warning import due_epoch
from raybd.errors import InputError

Floats = NDArray[np.float64]
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


def replay(
    frame: pd.DataFrame,
    histories: pd.DataFrame,
    stages: Sequence[tuple[float, float]] = ((0.2, STOP_SURE),),
    patterns: Sequence[str] = (DEFENDER,),
) -> Replay:
    """What --stop-on-warning would have done to a sweep.

    Args:
        frame: the trials, as `DefendedRegionMap.from_frame` takes them.
        histories: of the same trials, as `raybd.tracking.load_histories` gives them.
        stages: after which share of the epochs the warning speaks, and the probability from which it is sure then.
        patterns: of the names of the measures from which it is made.

    Raises:
        InputError: there are no such measures, or all verdicts but of one attack are equal.
    """
    names = logged(histories, patterns)
    if not names:
        raise InputError(f"no measure matches {' or '.join(patterns)}")
    whole = DefendedRegionMap.from_frame(frame)
    poisoned, label = (frame["poison_rate"] > 0).to_numpy(), _labels(frame, whole)
    stop, probability, left = np.zeros(len(frame), bool), np.full(len(frame), np.nan), np.zeros(len(frame))
    seen = histories[["run_id", "epoch", *names]]
    for share, sure in sorted(stages):
        early = early_values(seen, "run_id", share).reindex(frame["run_id"])
        said = _unseen(early[names].to_numpy(float), label, frame["attack.name"], poisoned)
        now = poisoned & ~stop & (np.maximum(said, 1 - said) >= sure)
        probability[now], left[now] = said[now], _left(seen, frame, share)[now]
        stop |= now
    lines = _lines(whole, DefendedRegionMap.from_frame(_stopped(frame, stop, probability)))
    known = stop & ~np.isnan(label)
    return Replay(
        stopped=int(stop.sum()),
        poisoned=int(poisoned.sum()),
        wrong=int(((probability > 0.5) != (label == 1))[known].sum()),
        undecided=int((stop & ~known).sum()),
        saved=float((left * frame["seconds"]).sum() / frame["seconds"].sum()),
        moved=float(lines["moved"].mean()),
        farthest=float(lines["moved"].max()),
        lines=lines,
    )


def _labels(frame: pd.DataFrame, whole: DefendedRegionMap) -> Floats:
    """(n,) whether the verdict on each trial's cell is that the backdoor takes hold, 1 or 0; NaN where undecided."""
    verdicts = {run: cell.verdict.status for cell in whole.cells for run in cell.verdict.evidence}
    status = frame["run_id"].map(verdicts)
    return np.where(status.isin(DECIDED), (status == "backdoored").to_numpy(float), np.nan)


def _left(histories: pd.DataFrame, frame: pd.DataFrame, share: float) -> Floats:
    """(n,) the share of the epochs that is left when a warning is due after the first `share` of them."""
    epochs = histories.groupby("run_id")["epoch"].max().reindex(frame["run_id"])
    return (1 - epochs.map(lambda number: due_epoch(share, number)) / epochs).to_numpy(float)


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
