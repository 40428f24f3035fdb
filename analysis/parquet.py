"""Writing a frame as a Parquet file."""

from pathlib import Path

import pandas as pd

from raybd.errors import InputError


def write_parquet(frame: pd.DataFrame, path: str | Path, instead: str) -> None:
    """Write `frame` to `path`; `instead` says what to do without pyarrow.

    Raises:
        InputError: pyarrow is not installed, or the file cannot be written.
    """
    try:
        frame.to_parquet(path, index=False)
    except ImportError as error:
        raise InputError(f"a Parquet file needs pyarrow: pip install pyarrow{instead}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}") from error
