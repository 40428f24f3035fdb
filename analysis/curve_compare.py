"""Trials of the published recipe beside the result files of arXiv 2106.07214's authors, row by row."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.text_table import align_columns
from raybd.errors import InputError

KEYS = ("seed", "gamma", "c")
COLUMNS = {  # theirs -> ours
    "clf_acc": "accuracy/clean_model",
    "clfp_acc": "accuracy/clean",
    "clfp_acc_on_backdoor": "attack_success",
    "clfp_acc_tr": "accuracy/train",
    "avg_I_poison_train_triggered_test_clf": "curve/slope_legacy",
    "avg_abs_I_poison_train_triggered_test_clf": "curve/legacy/mean_absolute",
    "norm_I_poison_train_triggered_test_clf": "curve/legacy/total_absolute",
    "mean_loss": "curve/legacy/mean_loss",
    "min_loss": "curve/legacy/min_loss",
    "max_loss": "curve/legacy/max_loss",
}
ACCURACIES = tuple(COLUMNS)[:4]
RATE = 0.1  # of every row; the files have no column for it
ABSENT = 9999  # what stands where no number could be had
LEARNERS = {"svm-rbf": "svm_rbf", "svm_rbf": "svm_rbf", "svm": "svm", "logistic": "logistic", "ridge": "ridge"}
DIGITS = 9  # of C and gamma by which rows are matched


def read_published(path: Path) -> tuple[str, str, pd.DataFrame]:
    """The learner and the pair, as "7-1", that a file's name tells, and its rows with `size` added.

    Raises:
        InputError: it cannot be read, lacks a column, or its name tells no learner or no pair.
    """
    model = re.search("|".join(LEARNERS), path.stem)
    pair = re.search(r"(?<!\d)(\d+-\d+)(?!\d)", path.stem)
    try:
        rows = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no table: {error}") from error
    missing = [name for name in (*KEYS, "trigger_size", *COLUMNS) if name not in rows]
    problems = [f"{path} has no column {', '.join(missing)}"] if missing else []
    if model is None or pair is None:
        problems.append(f"{path.name} does not tell its learner ({', '.join(LEARNERS)}) and its pair (as 7-1)")
    if problems or model is None or pair is None:
        raise InputError(problems)
    size = rows["trigger_size"].astype(str).str.extract(r"(\d+)", expand=False)
    return LEARNERS[model.group()], pair.group(1), rows.assign(size=size.astype(float))


def compare_published(table: pd.DataFrame, path: Path) -> str:
    """One line a column of the authors' file: how many of its rows were run, are equal, and how far the rest is off.

    `table` is that of `analysis.learning_curves.trial_table`. Accuracies are equal to 1e-9, their largest difference is
    in test points; others are compared relatively. Rows that hold 9999 have no numbers on either side.
    """
    model, pair, theirs = read_published(path)
    mine = table[
        (table["model"] == model)
        & table["data"].str.contains(f"[{pair.replace('-', ',')}", regex=False)
        & np.isclose(table["poison_rate"], RATE)
    ]
    ours = _with_match_keys(mine, "C")
    both = _with_match_keys(theirs, "c").merge(ours, on=["seed", "size", "_C", "_gamma"], suffixes=("", " ours"))
    head = f"{path.name}: {len(both)} of {len(theirs)} rows were run ({model}, {pair}, rate {RATE:g})"
    if both.empty:
        return head
    tests = float(both["count/clean"].iloc[0])
    lines = [["column", "rows", "equal", "largest difference"]]
    lines += [_line(both, name, own, tests) for name, own in COLUMNS.items() if own in both]
    return f"{head}\n{align_columns(lines)}"


def _with_match_keys(rows: pd.DataFrame, c: str) -> pd.DataFrame:
    """Rows with C and gamma rounded to the digits by which they are matched."""
    return rows.assign(
        **{
            f"_{name}": [f"{v:.{DIGITS}g}" for v in rows[column].astype(float)]
            for name, column in {"C": c, "gamma": "gamma"}.items()
        }
    )


def _line(both: pd.DataFrame, name: str, ours: str, tests: float) -> list[str]:
    known = (both[name] != ABSENT) & both[ours].notna()
    theirs, own = both.loc[known, name].to_numpy(dtype=float), both.loc[known, ours].to_numpy(dtype=float)
    apart = np.abs(own - theirs)
    if name in ACCURACIES:
        count = tests if name != "clfp_acc_tr" else 1500
        return [name, str(len(own)), str(int((apart < 1e-9).sum())), f"{apart.max() * count:.2g} points"]
    relative = apart / np.maximum(np.abs(theirs), 1e-300)
    close = int((relative <= 1e-6).sum())
    return [name, str(len(own)), str(close), f"{relative.max():.2g} relative (median {np.median(relative):.2g})"]
