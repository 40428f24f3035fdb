"""A table of trials in a file, from which the map of a sweep is made again anywhere, without its store."""

from pathlib import Path
from typing import Any

import pandas as pd

from analysis.arguments import check_path
from analysis.parquet import write_parquet
from analysis.records import REQUIRED, canonical_frame
from analysis.values import parse
from raybd.errors import InputError
from raybd.utils.files import expanded, write_errors

NUMBERS = ("clean_accuracy", "attack_success", "clean_count", "triggered_count", "seconds")
TEXTS = ("run_id", "status", "key", "error", "alias", "held_out", "class_names", "fingerprint")
KINDS = (".csv", ".csv.gz", ".parquet")
DIGITS = 6  # of shares and seconds: a test set has fewer images


def write(runs: pd.DataFrame, path: str | Path) -> int:
    """Write the trials of `runs`, with columns as MLflow names them, to `path`; how many there are.

    Parameters that no trial has are left out, and so is the folder of images of one's own: their fingerprint stays.

    Raises:
        InputError: the name ends otherwise, or the file cannot be written.
    """
    target = _checked(path)
    frame = canonical_frame(runs)
    frame = frame.assign(**{name: frame[name].astype(float).round(DIGITS) for name in NUMBERS if name in frame})
    if "data" in frame:
        frame = frame.assign(data=frame["data"].map(_without_folder))
    frame = frame.dropna(axis="columns", how="all").sort_values(["seed", "run_id"], ignore_index=True)
    if target.suffix == ".parquet":
        texts = frame.astype({name: "str" for name in frame if frame[name].dtype == object})
        write_parquet(texts, target, ", or name the file .csv.gz")
        return len(frame)
    with write_errors(path):
        frame.to_csv(target, index=False)
    return len(frame)


def read(path: str | Path) -> pd.DataFrame:
    """The canonical frame of the trials in the file `path`.

    Raises:
        InputError: it cannot be read, or is no table of trials.
    """
    source = _checked(path)
    try:
        raw = pd.read_parquet(source) if source.suffix == ".parquet" else pd.read_csv(source, dtype=str)
    except (OSError, ValueError, ImportError, UnicodeError) as error:
        raise InputError(f"the trials in {path} cannot be read: {error}") from error
    if missing := [name for name in REQUIRED if name not in raw]:
        raise InputError(f"{path} is no table of trials: it has no column {', '.join(missing)}")
    return pd.DataFrame({name: _values(str(name), raw[name]) for name in raw})


def _values(name: str, column: "pd.Series[Any]") -> "pd.Series[Any]":
    """A column of texts as what they mean: numbers, truth values, words; None where there is nothing."""
    known = column.astype(object).where(column.notna(), None)
    if name in TEXTS or name == "start_time":
        return known
    if name in (*NUMBERS, "seed"):
        return pd.to_numeric(known, errors="coerce").astype(object if name == "seed" else float)
    return pd.Series([None if text is None else parse(text) for text in known], index=column.index, dtype=object)


def _without_folder(name: object) -> object:
    """`npz:a/b/c.npz` as `npz:c.npz`."""
    kind, colon, path = str(name).partition(":")
    return f"{kind}:{Path(path).name}" if colon and kind in ("npz", "folder") else name


def _checked(path: str | Path) -> Path:
    check_path("a table of trials", path)
    if not str(path).endswith(KINDS):
        raise InputError(f"a table of trials is a file named {', '.join('NAME' + kind for kind in KINDS)}, got {path}")
    return expanded(path)
