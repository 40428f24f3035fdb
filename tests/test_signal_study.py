"""docs/signal.md says what the study's exported files say: the tables are made again, without any store."""

from pathlib import Path

import pytest

from analysis import signal
from raybd.early_warning import DEFENDER, WITH_TRIGGER, read_warning
from tests import signal_study

PAGE = (Path(__file__).parents[1] / "docs" / "signal.md").read_text()


@pytest.mark.long
@pytest.mark.parametrize("study", signal_study.STUDIES)
def test_the_tables_of_the_page_are_those_of_the_exported_trials(study: str) -> None:
    for part in signal_study.text(study).split("\n\n"):
        assert part in PAGE


@pytest.mark.long
def test_the_table_of_another_data_set_is_that_of_the_exported_trials() -> None:
    assert signal_study.across() in PAGE


@pytest.mark.parametrize("study", signal_study.STUDIES)
def test_a_random_number_is_found_worthless(study: str) -> None:
    table = signal.signal_table(signal_study.observations(study))
    control = table[table["measure"] == signal_study.RANDOM]
    assert (control["p"] > 0.05).all()


@pytest.mark.parametrize(
    ("path", "patterns", "stages"),
    [
        (DEFENDER, signal_study.DEFENDER, ((0.2, 0.9),)),
        (WITH_TRIGGER, signal_study.WITH_TRIGGER, signal_study.STAGES),
    ],
)
def test_the_warnings_that_come_with_raybd_are_fitted_to_it(
    path: Path, patterns: tuple[str, ...], stages: tuple[tuple[float, float], ...]
) -> None:
    fitted, kept = signal_study.fitted(patterns, stages), read_warning(path)
    assert [(stage.share, stage.sure) for stage in kept] == list(stages)
    for one, other in zip(kept, fitted, strict=True):
        assert one.measures == list(other.measures)
        assert one.coefficients == pytest.approx(list(other.coefficients), rel=1e-3, abs=1e-4)
