"""The tables of docs/signal.md from the study's exported files: `python -m tests.signal_study`."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import DefendedRegionMap, signal
from analysis.records import canonical_frame
from analysis.signal.measures import RANDOM
from analysis.signal.replay import frame_of
from analysis.signal.warning import area_of
from raybd import early_warning
from raybd.early_warning import WarningModel
from raybd.tracking import load_histories, load_runs

DOCS = Path(__file__).parents[1] / "docs"
STUDIES = {"digits": "Digits", "fashion": "Fashion-MNIST"}
EARLY, END = 4, 20  # epochs
DEFENDER = ("defender/*",)
WITH_TRIGGER = ("attack_success", "loss/triggered", "loss/train", "defender/noise/entropy")
REPLAYS = ((DEFENDER, 0.2, 0.9), (WITH_TRIGGER, 0.2, 0.85), (WITH_TRIGGER, 0.4, 0.85), (WITH_TRIGGER, 0.4, 0.95))
SHARES = (0.2, 0.4)
HEAD = ("measure", "needs", "AUC at epoch 4", "p", "equal settings", "unseen attacks", "AUC at epoch 20")
Row = Sequence[object]


def observations(study: str) -> pd.DataFrame:
    return signal.read_observations(DOCS / f"signal_{study}.csv.gz")


def trials(study: str, share: float) -> pd.DataFrame:
    return signal.read_trials(DOCS / f"signal_{study}_trials_{round(100 * share)}.csv.gz")


def pooled(studies: Sequence[str] = tuple(STUDIES)) -> pd.DataFrame:
    """The observations of several data sets, their trials and cells numbered through."""
    parts, trial, cell = [], 0, 0
    for study in studies:
        one = observations(study)
        parts.append(one.assign(trial=one["trial"] + trial, cell=one["cell"] + cell))
        trial, cell = parts[-1]["trial"].max() + 1, parts[-1]["cell"].max() + 1
    return pd.concat(parts, ignore_index=True)


def fitted(
    patterns: Sequence[str], share: float, studies: Sequence[str] = tuple(STUDIES), sure: float = 0.9
) -> WarningModel:
    """The early warning fitted to all trials of some data sets."""
    return signal.fit_warning(pooled(studies), share, patterns, sure)


def export(study: str, sweep: str, tracking_uri: str | None = None) -> None:
    """Write the files of one data set from the sweep's trials in a tracking store."""
    frame, histories = canonical_frame(load_runs(sweep, tracking_uri)), load_histories(sweep, tracking_uri)
    seen = signal.observe(histories, DefendedRegionMap.from_frame(frame))
    signal.write_observations(seen, DOCS / f"signal_{study}.csv.gz")
    for share in SHARES:
        early = signal.early_trials(frame, histories, share, [*DEFENDER, *WITH_TRIGGER])
        signal.write_trials(early, DOCS / f"signal_{study}_trials_{round(100 * share)}.csv.gz")


def across() -> str:
    """The table of early warnings that have not seen the data set."""
    rows = []
    for patterns, share in ((DEFENDER, 0.2), (WITH_TRIGGER, 0.2), (WITH_TRIGGER, 0.4)):
        areas = []
        for study in STUDIES:
            warning = fitted(patterns, share, [other for other in STUDIES if other != study])
            early = observations(study).query(f"epoch <= {share} * {END} and poison_rate > 0").sort_values("epoch")
            last = early.groupby("trial")[["takes_hold", *warning.measures]].last()
            measures = last[list(warning.measures)].to_dict("records")
            said = np.array([warning.probability(row) for row in measures])
            areas.append(area_of(last["takes_hold"].to_numpy(float), said))
        rows.append((", ".join(patterns), f"{share:.0%}", *map(_number, areas)))
    return _table(("measures", "speaks after", *(f"AUC on {name}" for name in STUDIES.values())), rows)


def text(study: str) -> str:
    """All tables of one data set, as Markdown."""
    seen = observations(study)
    parts = [_counted(study), _measures(signal.signal_table(seen)), _trade_offs(seen), _warnings(seen), _replays(study)]
    return "\n\n".join(parts)


def _counted(study: str) -> str:
    whole = trials(study, 0.2)
    cells = DefendedRegionMap.from_frame(frame_of(whole)).cells
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
    for patterns, share, sure in REPLAYS:
        found = signal.replay(trials(study, share), sure, patterns)
        stopped = f"{found.stopped} of {found.poisoned} ({found.wrong} wrongly, {found.undecided} undecided)"
        moved = f"{found.moved:.3f} ({found.farthest:.2f})"
        rows.append((", ".join(patterns), f"{share:.0%}", sure, stopped, f"{found.saved:.0%}", moved))
    head = (
        "measures",
        "speaks after",
        "sure from",
        "trials stopped",
        "time saved",
        "boundary moves, decades (farthest)",
    )
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
    fitted(DEFENDER, 0.2, sure=0.9).write(early_warning.DEFENDER)
    fitted(WITH_TRIGGER, 0.4, sure=0.85).write(early_warning.WITH_TRIGGER)
