"""Tables of the signal as CSV, from which all is said again without a store."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis import arguments
from raybd.errors import InputError
from raybd.utils.files import expanded, write_errors


def write(table: pd.DataFrame, path: str | Path) -> Path:
    """Write `table` as CSV (.csv, .csv.gz); where it is.

    Raises:
        InputError: the file cannot be written.
    """
    place = expanded(path)
    with write_errors(place):
        table.to_csv(place, index=False, float_format="%.9g")
    return place


def read(path: str | Path, what: str, required: Sequence[str]) -> pd.DataFrame:
    """The table of `what` ("observations") that `write` wrote, with at least the columns `required`.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    arguments.check_path(f"a file of {what}", path)
    try:
        found = pd.read_csv(expanded(path), keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise InputError(f"{path} holds no {what} that can be read: {error}") from error
    if missing := [name for name in required if name not in found]:
        raise InputError(f"{path} holds no {what}: it has no column {', '.join(missing)}")
    return found
