"""Properties of maps of made tables: any is answered or refused, and no verdict comes from a number out of range."""

import math
from contextlib import suppress
from typing import Any

import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from analysis import DefendedRegionMap
from raybd.errors import InputError

BOUNDED = settings(max_examples=30, deadline=None, derandomize=True, database=None, phases=(Phase.generate,))
RATES = st.sampled_from([0.0, 0.02, 0.5, 0.97, 1.0])
ODD = st.sampled_from([None, math.nan, math.inf, -1, 1.2, 90, "0.5", "high", True, (1,), pd.NA, 10**400])
WORDS = st.sampled_from(["badnets", "none", "vibe", "True", "1"])
NUMBERS = st.sampled_from([1, 2, 1.0, 1e-4, True, 0, -3, 1e300])
COLUMNS: dict[str, st.SearchStrategy[Any]] = {
    "attack.name": WORDS,
    "poison_rate": st.sampled_from([0, 0.0, 0.01, 0.1, 1]),
    "seed": st.integers(0, 2),
    "clean_accuracy": RATES,
    "attack_success": RATES,
    "model.width": NUMBERS | WORDS | st.none(),
    "defence.name": st.sampled_from(["none", "vibe"]),
    "data": st.sampled_from(["digits", "mnist"]),
    "status": st.sampled_from(["FINISHED", "FAILED", "RUNNING", None]),
    "clean_count": st.sampled_from([0, 100, 500.0, None]),
    "key": st.sampled_from(["a", "b", 1, None]),
    "start_time": st.sampled_from([1, 2.5, None]),
}


@st.composite
def tables(draw: st.DrawFn, odd: bool) -> pd.DataFrame:
    """A few trials; with `odd` some values that no trial can have, and names that are not those of a table."""
    optional = draw(st.sets(st.sampled_from(list(COLUMNS)[5:])))
    names = [*list(COLUMNS)[:5], *sorted(optional)]
    rows = draw(st.lists(st.tuples(*(COLUMNS[name] for name in names)), max_size=12))
    frame = pd.DataFrame(rows, columns=names, dtype=object)
    if odd:
        for row, column in draw(st.lists(st.tuples(st.integers(0, 11), st.integers(0, len(names) - 1)), max_size=2)):
            if row < len(frame):
                frame.iat[row, column] = draw(ODD)
        frame = frame.rename(
            columns=draw(st.dictionaries(st.sampled_from(names), st.sampled_from(["seed", 5, "x"]), max_size=1))
        )
    return frame if draw(st.booleans()) else frame.infer_objects()


def verdicts(frame: pd.DataFrame) -> dict[tuple[Any, ...], tuple[str, int, str]]:
    """Status, seeds and probability of every cell of a table, by its setting."""
    found = DefendedRegionMap.from_frame(frame)
    names = sorted({name for cell in found.cells for name in cell.setting})
    return {
        tuple((isinstance(cell.setting[n], bool), cell.setting[n]) for n in names): (
            cell.verdict.status,
            cell.verdict.seeds,
            f"{cell.verdict.probability:.9f}",
        )
        for cell in found.cells
    }


@pytest.mark.filterwarnings("ignore:.*trials name no attack")
@BOUNDED
@given(tables(odd=True))
def test_any_table_is_answered_or_refused(frame: pd.DataFrame) -> None:
    try:
        found = DefendedRegionMap.from_frame(frame)
    except InputError:
        return
    for cell in found.cells:
        numbers = (*cell.clean_accuracy, *cell.attack_success)
        assert all(math.isnan(number) or 0 <= number <= 1 for number in numbers)
        assert cell.verdict.seeds == len(cell.seeds) == len(set(cell.seeds))
        assert (cell.verdict.status == "unmeasured") == (not cell.seeds)
        assert math.isnan(cell.verdict.probability) or 0 <= cell.verdict.probability <= 1
    for ask in (found.to_frame, found.boundary, found.robust, found.best, found.query):
        with suppress(InputError):  # several sources, an axis without an order
            ask()


@pytest.mark.filterwarnings("ignore:.*trials name no attack")
@BOUNDED
@given(tables(odd=False), st.randoms(use_true_random=False))
def test_no_verdict_depends_on_the_order_of_rows_or_columns(frame: pd.DataFrame, random: Any) -> None:
    """A trial that was run twice is told by when it started: here every row starts at a time of its own."""
    frame = frame.assign(run_id=[f"r{i}" for i in range(len(frame))], start_time=range(len(frame)))
    rows, columns = list(range(len(frame))), list(frame)
    random.shuffle(rows)
    random.shuffle(columns)
    try:
        expected = verdicts(frame)
    except InputError:
        with pytest.raises(InputError):
            verdicts(frame.iloc[rows][columns])
        return
    assert verdicts(frame.iloc[rows][columns]) == expected
