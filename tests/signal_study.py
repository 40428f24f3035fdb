"""The tables of docs/signal.md from the study's exported files: `python -m tests.signal_study`."""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import DefendedRegionMap, signal
from analysis.records import canonical_frame
from analysis.signal import csv_files
from analysis.signal.measures import RANDOM, measured
from analysis.signal.warning import area_of, early_values
from raybd import early_warning
from raybd.early_warning import WarningModel, write_warning
from raybd.tracking import load_histories, load_runs

DOCS = Path(__file__).parents[1] / "docs"
STUDIES = {"digits": "Digits", "fashion": "Fashion-MNIST"}
EARLY, END = 4, 20  # epochs
DEFENDER = ("defender/*",)
WITH_TRIGGER = ("mi/*", "attack_success", "loss/*", "accuracy/clean")
ALL = (*WITH_TRIGGER, *DEFENDER)
STAGES = ((0.1, 0.9), (0.15, 0.9), (0.2, 0.9), (0.4, 0.75))  # share of the epochs, sure from
CAREFUL = ((0.1, 0.97), (0.15, 0.97), (0.2, 0.95), (0.4, 0.75))
REPLAYS: tuple[tuple[str, Sequence[str], Sequence[tuple[float, float]]], ...] = (
    ("a defender's", DEFENDER, ((0.2, 0.9),)),
    ("with the trigger", WITH_TRIGGER, ((0.2, 0.9),)),
    ("with the trigger", WITH_TRIGGER, ((0.4, 0.75),)),
    ("with the trigger", WITH_TRIGGER, STAGES),
    ("with the trigger", WITH_TRIGGER, CAREFUL),
    ("with the trigger, and a defender's", ALL, STAGES),
    ("with the trigger, and a defender's", ALL, CAREFUL),
)
HEAD = ("measure", "needs", "AUC at epoch 4", "p", "equal settings", "unseen attacks", "AUC at epoch 20")
Row = Sequence[object]


def trials(study: str) -> pd.DataFrame:
    """The canonical frame of a data set's trials."""
    return csv_files.read(DOCS / f"signal_{study}_trials.csv.gz", "trials", ("run_id", "attack.name", "poison_rate"))


def histories(study: str) -> pd.DataFrame:
    """Their measures by epoch."""
    return csv_files.read(DOCS / f"signal_{study}_histories.csv.gz", "histories", ("run_id", "epoch"))


@cache
def observations(study: str) -> pd.DataFrame:
    return signal.observe(histories(study), DefendedRegionMap.from_frame(trials(study)))


def pooled(studies: Sequence[str] = tuple(STUDIES)) -> pd.DataFrame:
    """The observations of several data sets, their trials and cells numbered through."""
    parts, trial, cell = [], 0, 0
    for study in studies:
        one = observations(study)
        parts.append(one.assign(trial=one["trial"] + trial, cell=one["cell"] + cell))
        trial, cell = parts[-1]["trial"].max() + 1, parts[-1]["cell"].max() + 1
    return pd.concat(parts, ignore_index=True)


def fitted(
    patterns: Sequence[str], stages: Sequence[tuple[float, float]], studies: Sequence[str] = tuple(STUDIES)
) -> list[WarningModel]:
    """The early warning fitted to all trials of some data sets."""
    shares, sure = zip(*stages, strict=True)
    return signal.fit_stages(pooled(studies), shares, patterns, sure)


def export(study: str, sweep: str, tracking_uri: str | None = None) -> None:
    """Write the files of one data set from the sweep's trials in a tracking store."""
    frame, histories = canonical_frame(load_runs(sweep, tracking_uri)), load_histories(sweep, tracking_uri)
    kept = ["run_id", "epoch", *measured(map(str, histories))]
    csv_files.write(frame, DOCS / f"signal_{study}_trials.csv.gz")
    csv_files.write(histories[kept].sort_values(["run_id", "epoch"]), DOCS / f"signal_{study}_histories.csv.gz")


def across() -> str:
    """The table of early warnings that have not seen the data set."""
    rows = []
    for name, patterns, stages in (
        ("a defender's", DEFENDER, ((0.2, 0.9),)),
        ("with the trigger", WITH_TRIGGER, STAGES),
    ):
        warnings = {
            study: fitted(patterns, stages, [other for other in STUDIES if other != study]) for study in STUDIES
        }
        for i, (share, _) in enumerate(stages):
            areas = [_area(warnings[study][i], study) for study in STUDIES]
            rows.append((name, f"{share:.0%}", *map(_number, areas)))
    return _table(("warning", "speaks after", *(f"AUC on {name}" for name in STUDIES.values())), rows)


def _area(warning: WarningModel, study: str) -> float:
    """AUC of a warning on the trials with poison of a data set."""
    last = early_values(observations(study).query("poison_rate > 0"), "trial", warning.share)
    said = [warning.probability(row) for row in last[list(warning.measures)].to_dict("records")]
    return area_of(last["takes_hold"].to_numpy(float), np.array(said))


def text(study: str) -> str:
    """All tables of one data set, as Markdown."""
    seen = observations(study)
    parts = [_counted(study), _measures(signal.signal_table(seen)), _trade_offs(seen), _warnings(seen), _replays(study)]
    return "\n\n".join(parts)


def _counted(study: str) -> str:
    whole = trials(study)
    cells = DefendedRegionMap.from_frame(whole).cells
    counts = Counter(cell.verdict.status for cell in cells if cell.poisoned)
    told = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
    return f"{STUDIES[study]}: {len(whole)} trials, {sum(counts.values())} settings with poison: {told}."


def _measures(table: pd.DataFrame) -> str:
    early = table[table["epoch"] == EARLY].set_index("measure")
    end = table[table["epoch"] == END].set_index("measure")["AUC within rates"]
    order = (early["AUC within rates"] - 0.5).abs().sort_values(ascending=False).index
    rows = [
        (
            *(f"`{name}`" if name != RANDOM else name, early["needs"][name]),
            _interval(early["AUC within rates"][name], early["low"][name], early["high"][name]),
            f"{early['p'][name]:.3f}",
            *(_number(early[column][name]) for column in ("AUC within settings", "AUC unseen")),
            _number(end.get(name, float("nan"))),
        )
        for name in order
    ]
    return _table(HEAD, rows)


def _trade_offs(seen: pd.DataFrame) -> str:
    found = signal.trade_off_table(seen)
    rows = [
        (
            *(row["question"], f"`{row['first']}`", f"`{row['second']}`", f"{row['correlation']:+.2f}"),
            f"{row['given the rate']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})",
        )
        for row in found.to_dict("records")
    ]
    return _table(("question", "first", "second", "rank correlation", "given the rate"), rows)


def _warnings(seen: pd.DataFrame) -> str:
    who = {"a defender": ("nothing",), "with the trigger and a clean training": ("nothing", "twin", "trigger")}
    rows = []
    for name, needs in who.items():
        found = signal.early_warning(seen, needs=needs)  # type: ignore[arg-type]
        area = _interval(found.area, found.area_low, found.area_high)
        error = _interval(found.calibration_error, found.calibration_low, found.calibration_high)
        known = {k: v for k, v in found.by_attack.items() if v == v}
        worst = min(known, key=known.__getitem__)
        decides = f"{found.decided:.0%}, {found.right:.0%} rightly"
        rows.append(
            (name, len(found.measures), area, f"{worst} {known[worst]:.2f}", _number(found.null), error, decides)
        )
    head = (
        "early warning after a fifth",
        "measures",
        "AUC",
        "worst attack",
        "permuted, at most",
        "calibration error",
        "decides",
    )
    return _table(head, rows)


def _replays(study: str) -> str:
    rows = []
    for name, patterns, stages in REPLAYS:
        found = signal.replay(trials(study), histories(study), stages, patterns)
        said = "; ".join(f"{share:.0%} from {sure}" for share, sure in stages)
        stopped = f"{found.stopped} of {found.poisoned} ({found.wrong} wrongly, {found.undecided} undecided)"
        moved = f"{found.moved:.3f} ({found.farthest:.2f})"
        rows.append((name, said, stopped, f"{found.saved:.0%}", moved))
    head = ("warning", "speaks after, sure from", "trials stopped", "time saved", "boundary moves, decades (farthest)")
    return _table(head, rows)


def _number(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.2f}"


def _interval(value: float, low: float, high: float) -> str:
    return "-" if pd.isna(value) else f"{value:.2f} ({low:.2f} to {high:.2f})"


def _table(head: Row, rows: Iterable[Row]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


if __name__ == "__main__":
    for one in STUDIES:
        print(text(one), end="\n\n")
    print(across())
    write_warning(fitted(DEFENDER, ((0.2, 0.9),)), early_warning.DEFENDER)
    write_warning(fitted(WITH_TRIGGER, STAGES), early_warning.WITH_TRIGGER)
