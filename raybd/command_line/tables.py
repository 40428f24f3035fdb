"""Tables of the command line in the format that is asked for: text, JSON, CSV or LaTeX."""

import json as json_format
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raybd.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class TableFormat:
    """The format of a table, one of three at most; none: text.

    Raises:
        InputError: several are asked for.
    """

    json: bool = False  # a list of rows
    csv: bool = False
    latex: bool = False  # a tabular with the rules of booktabs

    def __post_init__(self) -> None:
        if self.json + self.csv + self.latex > 1:
            raise InputError("one of --json, --csv and --latex at most")

    def of(
        self, frame: "pd.DataFrame", text: Callable[[], str], shown: "Callable[[], pd.DataFrame] | None" = None
    ) -> str:
        """A table in this format.

        Args:
            frame: all columns, with their numbers, for JSON and CSV.
            text: makes the text.
            shown: makes the table for LaTeX, rounded for people; None: `frame`.
        """
        if self.json:
            return format_json(frame.to_dict("records"))
        if self.csv:
            return frame.to_csv(index=False).rstrip("\n")
        if self.latex:
            table = shown() if shown is not None else frame
            return table.to_latex(index=False, escape=True).replace("±", r"$\pm$").rstrip("\n")
        return text()


def format_json(what: Any) -> str:
    """`what` as JSON, which knows neither NaN nor infinity: they are null."""
    return json_format.dumps(_finite(what), indent=1, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
