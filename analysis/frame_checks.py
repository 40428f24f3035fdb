"""Checks of a table of trials that somebody gives: what no trial can have is refused, with its column and its row."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

import pandas as pd

from raybd.errors import InputError

SHOWN = 3  # rows named for each column
CONTENT = ".content"  # ends the name of a parameter: what the file holds that the parameter without it names
STATUSES = ("FINISHED", "FAILED", "KILLED", "STOPPED", "RUNNING", "SCHEDULED")
MOST = 2**63  # above any seed and any number of images
MISSING = ("NoneType", "NAType", "NaTType")


def check_table(frame: object, required: Sequence[str]) -> pd.DataFrame:
    """`frame` if it is a table with the `required` columns, and each of its columns has a name of its own.

    Raises:
        InputError: it is not.
    """
    if not isinstance(frame, pd.DataFrame):
        raise InputError(f"trials come as a pandas DataFrame, a row each, got {type(frame).__name__}")
    names = list(frame.columns)
    found = [f"names of columns are texts, got {', '.join(map(repr, bad))}" for bad in [_no_texts(names)] if bad]
    twice = [str(name) for name, number in Counter(map(repr, names)).items() if number > 1]
    found += [f"columns given twice: {', '.join(twice)}"] * bool(twice)
    if not found and (missing := [name for name in required if name not in frame]):
        found.append(f"missing columns: {', '.join(missing)} (needed: {', '.join(required)})")
    if found:
        raise InputError(found)
    return frame


def check_values(frame: pd.DataFrame) -> None:
    """Raise an InputError if a column holds what no trial can have; every column is told at once.

    A rate that is missing (NaN or None) is none that was measured, and is no fault.
    """
    checks = {name: check for name, check in CHECKS.items() if name in frame}
    checks |= {name: CHECKS["fingerprint"] for name in map(str, frame) if name.endswith(CONTENT)}
    found = [_told(name, allowed, list(_bad(frame[name], valid))) for name, (valid, allowed) in checks.items()]
    found += _start_times(frame["start_time"]) if "start_time" in frame else []
    if problems := [problem for problem in found if problem]:
        raise InputError(problems)


def is_missing(value: object) -> bool:
    """Whether `value` is None, NaN or one of pandas' marks for these."""
    return type(value).__name__ in MISSING or (isinstance(value, float) and math.isnan(value))


def is_real(value: object) -> bool:
    """Whether `value` is a number, NumPy's or Python's; a truth value is none."""
    return isinstance(value, Real) and type(value).__name__ not in ("bool", "bool_")


def is_share(value: Any) -> bool:
    """Whether `value` is a number in [0, 1]."""
    return is_real(value) and 0 <= value <= 1


def percent_hint(value: Any) -> str:
    """A question, where a number outside [0, 1] may be a share in percent."""
    return ": in percent?" if is_real(value) and 1 < value <= 100 else ""


def _is_rate(value: object) -> bool:
    return is_missing(value) or is_share(value)


def _is_count(value: Any) -> bool:
    return is_missing(value) or (is_real(value) and 0 <= value < MOST)


def _is_seed(value: Any) -> bool:
    return is_real(value) and -MOST < value < MOST and value == int(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_label(value: object) -> bool:
    return is_missing(value) or isinstance(value, str | int)


def _is_status(value: object) -> bool:
    return is_missing(value) or (isinstance(value, str) and value.upper() in STATUSES)


Check = Callable[[Any], bool]
CHECKS: Mapping[str, tuple[Check, str]] = {
    "clean_accuracy": (_is_rate, "a number in [0, 1]"),
    "attack_success": (_is_rate, "a number in [0, 1]"),
    "warning": (_is_rate, "a number in [0, 1]"),
    "poison_rate": (is_share, "a number in [0, 1]"),
    "seed": (_is_seed, "a whole number"),
    "attack.name": (_is_text, "a text"),
    "clean_count": (_is_count, "a number of images, from 0"),
    "triggered_count": (_is_count, "a number of images, from 0"),
    "seconds": (_is_count, "a number of seconds, from 0"),
    "alias": (_is_label, "a text"),
    "class_names": (_is_label, "a text"),
    "status": (_is_status, ", ".join(STATUSES)),
    "run_id": (_is_label, "a text or a whole number"),
    "key": (_is_label, "a text or a whole number"),
    "data": (_is_label, "a text or a whole number"),
    "fingerprint": (_is_label, "a text or a whole number"),
}


def _no_texts(names: Sequence[object]) -> list[object]:
    return [name for name in names if not isinstance(name, str)]


def _bad(column: "pd.Series[Any]", valid: Check) -> Iterator[tuple[object, object]]:
    """Row and value wherever a value of the column is not `valid`."""
    if column.dtype.kind in "fiu" and valid is not _is_seed and all(map(valid, (column.min(), column.max()))):
        return iter(())  # what is allowed is a range: the ends tell of all between them
    return ((row, value) for row, value in zip(column.index, column.tolist(), strict=True) if not valid(value))


def _told(name: str, allowed: str, bad: Sequence[tuple[object, object]]) -> str:
    """The problem of a column, "" without a bad value."""
    if not bad:
        return ""
    rows = ", ".join(f"{value!r} in row {row}{percent_hint(value)}" for row, value in bad[:SHOWN])
    more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    return f"{name} must be {allowed}, got {rows}{more}"


def _start_times(column: "pd.Series[Any]") -> list[str]:
    """What is wrong with the times at which trials started: they must have an order."""
    kinds = {_kind_of_time(value): row for row, value in zip(column.index, column.tolist(), strict=True)}
    kinds.pop("", None)
    if len(kinds) <= 1 and not {"other", "texts"} & kinds.keys():
        return []
    if list(kinds) == ["texts"] and not _unread(column).any():
        return []
    listed = ", ".join(f"{kind} (row {row})" for kind, row in kinds.items())
    return [f"start_time must be all dates, with a time zone or without, or all numbers, got {listed}"]


def _unread(column: "pd.Series[Any]") -> "pd.Series[bool]":
    """Which of a column of texts are no dates as in ISO 8601."""
    dates = pd.to_datetime(column, format="ISO8601", utc=True, errors="coerce")
    return dates.isna() & column.notna()


def _kind_of_time(value: Any) -> str:
    """ "" for one that is missing."""
    if is_missing(value):
        return ""
    if is_real(value):
        return "numbers"
    if isinstance(value, pd.Timestamp) or hasattr(value, "tzinfo"):
        return "dates without a time zone" if value.tzinfo is None else "dates with a time zone"
    return "texts" if isinstance(value, str) else "other"
