"""BackdoorBench's published leaderboard as a table of trials: a layer of its own, one seed a cell, gaps as gaps."""

from pathlib import Path

import pandas as pd

from analysis.arguments import check_path
from raybd.errors import InputError

SOURCE = "backdoorbench"
SPREAD = 0.26  # deviation between seeds of an attack success near one half, the largest published (2106.07214)
ACCURACY_SPREAD = 0.03  # likewise of clean accuracy; at 95 % it is 0.6 points, where the same source's seeds have 0.4
COLUMNS = {  # ours: what the column may be called
    "data": ("dataset",),
    "model.name": ("backbone",),
    "attack.name": ("attack", "attack_name"),
    "defence.name": ("defence", "defense", "defense_name"),
    "poison_rate": ("ratio",),
    "clean_accuracy": ("acc", "test_acc"),
    "attack_success": ("asr", "test_asr"),
    "robust_accuracy": ("ra", "test_ra"),
}
RATES = ("clean_accuracy", "attack_success", "robust_accuracy")
NO_DEFENCE = ("no defense", "no defence", "none")
NO_NUMBER = "listed without a number (-100 %)"


def read(path: str | Path) -> pd.DataFrame:
    """The trials of a leaderboard file.

    Rates may be fractions, as published, or percent, if one is above 1. Rows without numbers are left out; a negative
    number, the leaderboard's mark of a run that gave none, is a failed trial.

    Raises:
        InputError: the file cannot be read, lacks columns, or holds something that is no number.
    """
    check_path("a leaderboard", path)
    table = _read_columns(path)
    names, numbers = [n for n in COLUMNS if n not in RATES and n != "poison_rate"], [*RATES, "poison_rate"]
    table[numbers] = _to_numbers(path, table[numbers])
    table = table[table[["clean_accuracy", "attack_success"]].notna().all(axis=1)].reset_index(drop=True)
    table[names] = table[names].apply(lambda column: column.str.strip().str.lower())
    table["defence.name"] = table["defence.name"].where(~table["defence.name"].isin(NO_DEFENCE), "none")
    absent = (table[["clean_accuracy", "attack_success"]] < 0).any(axis=1)
    rates = table[list(RATES)].where(~absent)
    table[list(RATES)] = rates / 100 if (rates > 1).any(axis=None) else rates
    places = table[[*names, "poison_rate"]].astype(object).fillna("?")
    run_ids = [" ".join([SOURCE, *map(str, place)]) for place in places.to_numpy().tolist()]
    trials: pd.DataFrame = table.drop(columns="robust_accuracy").assign(
        source=SOURCE,
        seed=0,
        run_id=run_ids,
        status=absent.map({True: "FAILED", False: "FINISHED"}),
        error=absent.map({True: NO_NUMBER, False: None}),
    )
    return trials


def _read_columns(path: str | Path) -> pd.DataFrame:
    try:
        raw = pd.read_csv(path, dtype=str)
    except (OSError, ValueError) as error:
        raise InputError(f"the leaderboard {path} cannot be read: {error}") from error
    columns = {ours: next((n for n in theirs if n in raw), None) for ours, theirs in COLUMNS.items()}
    if missing := [" or ".join(COLUMNS[ours]) for ours, theirs in columns.items() if theirs is None]:
        raise InputError(f"{path} has no column {', '.join(missing)} (there: {', '.join(map(str, raw))})")
    return pd.DataFrame({ours: raw[theirs] for ours, theirs in columns.items() if theirs is not None})


def _to_numbers(path: str | Path, text: pd.DataFrame) -> pd.DataFrame:
    numbers: pd.DataFrame = text.apply(pd.to_numeric, errors="coerce")
    strange = (numbers.isna() & text.notna()).any()
    if strange.any():
        raise InputError(f"{path} holds what is no number in: {', '.join(strange.index[strange])}")
    return numbers
