"""The early warning as a file: fitted, written and read, against scikit-learn; and where it is due."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from analysis.signal import fit_warning
from raybd.cli import main as raybd
from raybd.early_warning import (
    DEFENDER,
    WITH_TRIGGER,
    WarningModel,
    last_values,
    read_warning,
    stage_due,
    write_warning,
)
from raybd.errors import InputError
from tests.test_signal import observations

NAMES = ("defender/loss/deviation", "defender/noise/entropy")


def made(intercept: float = 0.0, **changes: object) -> WarningModel:
    """A warning from two measures; by default that of no measure."""
    settings: dict[str, object] = {"measures": NAMES, "share": 0.2, "sure": 0.9, "median": (1.0, 2.0)}
    settings |= {"mean": (0.0, 0.0), "scale": (1.0, 2.0), "coefficients": (0.0, 0.0), "intercept": intercept}
    return WarningModel(**settings | changes)  # type: ignore[arg-type]


def test_the_fitted_warning_has_the_probabilities_of_scikit_learn() -> None:
    frame = observations()
    rng = np.random.default_rng(3)
    for name in NAMES:
        frame[name] = frame["takes_hold"] + rng.normal(size=len(frame))
    frame.loc[::7, NAMES[0]] = math.nan
    warning = fit_warning(frame, share=0.2)
    early = frame[frame["epoch"] == 1]
    x = SimpleImputer(strategy="median").fit_transform(early[list(NAMES)])
    x = StandardScaler().fit_transform(x)
    expected = LogisticRegression(max_iter=1000).fit(x, early["takes_hold"]).predict_proba(x)[:, 1]
    rows = early[list(NAMES)].to_dict("records")
    found = [warning.probability({str(name): value for name, value in row.items()}) for row in rows]
    assert found == pytest.approx(expected.tolist(), abs=1e-6)
    assert warning.fitted_to["attacks"] == ["badnets", "blended", "sig", "wanet"]


def test_probabilities_by_hand() -> None:
    warning = made(0.5, coefficients=(2.0, -1.0), mean=(1.0, 0.0))
    assert warning.probability({NAMES[0]: 2.0, NAMES[1]: 4.0}) == pytest.approx(1 / (1 + math.exp(-0.5)))
    assert warning.probability({NAMES[0]: 2.0}) == pytest.approx(1 / (1 + math.exp(-1.5)))  # the median, 2
    assert math.isnan(warning.probability({"accuracy/clean": 1.0}))
    assert (made(-1e5).probability({NAMES[0]: 0.0}), made(1e5).probability({NAMES[0]: 0.0})) == (0.0, 1.0)
    assert [made().is_sure(p) for p in (0.1, 0.11, 0.89, 0.9, math.nan)] == [True, False, False, True, False]


@pytest.mark.parametrize(("epochs", "due"), [(1, 1), (4, 1), (10, 2), (15, 3), (20, 4), (24, 4), (100, 20)])
def test_it_is_due_once_at_the_last_epoch_of_its_share(epochs: int, due: int) -> None:
    assert [epoch for epoch in range(1, epochs + 1) if made().due(epoch, epochs)] == [due]


def test_the_last_values_of_a_history() -> None:
    history = [{"epoch": 1, "metrics": {"a": 1.0, "b": 2.0}}, {"epoch": 2, "metrics": {"a": 3.0}}]
    assert last_values(history) == {"a": 3.0, "b": 2.0}


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = write_warning([made(0.25), made(0.5, share=0.4)], tmp_path / "w.json")
    again, second = read_warning(path)
    assert (again.intercept, tuple(again.measures), tuple(again.scale)) == (0.25, NAMES, (1.0, 2.0))
    assert (second.intercept, second.share) == (0.5, 0.4)


def test_a_file_of_one_stage_without_a_list_is_read(tmp_path: Path) -> None:
    path = write_warning([made(0.25)], tmp_path / "w.json")
    path.write_text(json.dumps(json.loads(path.read_text())[0]))
    assert [stage.intercept for stage in read_warning(path)] == [0.25]


def test_of_stages_that_are_due_together_the_last_speaks() -> None:
    stages = [made(share=0.4), made(share=0.1), made(share=0.15)]
    assert [(e, found.share) for e in range(1, 21) if (found := stage_due(stages, e, 20))] == [
        (2, 0.1),
        (3, 0.15),
        (8, 0.4),
    ]
    assert [(e, found.share) for e in range(1, 11) if (found := stage_due(stages, e, 10))] == [(1, 0.15), (4, 0.4)]
    assert [found.share for e in range(1, 3) if (found := stage_due(stages, e, 2))] == [0.4]
    assert stage_due([], 1, 1) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"median": [1.0]}, "median must be 2 numbers"),
        ({"coefficients": [1.0, None]}, "coefficients must be 2 numbers"),
        ({"scale": [1.0, 0.0]}, "scale must be above 0"),
        ({"share": 0.0}, "share must be above 0"),
        ({"sure": 0.5}, "sure must be above 0.5"),
        ({"other": 1}, "unexpected keyword argument 'other'"),
    ],
)
def test_a_file_of_something_else_is_refused(change: dict[str, object], said: str, tmp_path: Path) -> None:
    path = write_warning([made(), made()], tmp_path / "w.json")
    stages = json.loads(path.read_text())
    path.write_text(json.dumps([stages[0], stages[1] | change]))
    with pytest.raises(InputError, match=said):
        read_warning(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[1]", "3", "nonsense"])
def test_a_file_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text(text)
    for path in (tmp_path / "w.json", tmp_path / "none.json"):
        with pytest.raises(InputError, match=r"holds no early warning: .*raybd signal NAME --fit FILE"):
            read_warning(path)


def test_those_that_come_with_raybd() -> None:
    defender, with_trigger = map(read_warning, (DEFENDER, WITH_TRIGGER))
    assert all(name.startswith("defender/") for stage in defender for name in stage.measures)
    assert all("attack_success" in stage.measures for stage in with_trigger)
    assert all(len(stage.fitted_to["attacks"]) >= 8 for stage in (*defender, *with_trigger))


def test_the_command_writes_one(tmp_path: Path) -> None:
    from analysis.signal import write_observations

    frame = observations()
    frame[NAMES[0]] = frame["takes_hold"] + np.random.default_rng(1).normal(size=len(frame))
    place = write_observations(frame, tmp_path / "o.csv.gz")
    assert raybd(["signal", str(place), "--fit", str(tmp_path / "w.json")]) == 0
    assert [stage.measures for stage in read_warning(tmp_path / "w.json")] == [[NAMES[0]]]
    stages = ["--fit-shares", "0.2", "0.4", "1", "--fit-sure", "0.9", "0.8", "0.7"]
    assert raybd(["signal", str(place), "--fit", str(tmp_path / "w.json"), *stages]) == 0
    found = [(stage.share, stage.sure) for stage in read_warning(tmp_path / "w.json")]
    assert found == [(0.2, 0.9), (0.4, 0.8), (1.0, 0.7)]
    assert raybd(["signal", str(place), "--fit", str(tmp_path / "w.json"), *stages[:-1]]) == 2
