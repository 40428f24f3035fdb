"""Stopping on a warning, replayed: planted measures that tell all, nothing, and the wrong thing."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.signal import early_trials, read_trials, replay, write_trials
from raybd.errors import InputError

ATTACKS, RATES, SEEDS = ("badnets", "blended", "wanet"), (0.0, 0.003, 0.01, 0.03, 0.1), 3


def frame() -> pd.DataFrame:
    """A sweep in which every attack takes hold from a rate of 0.03 on; each trial takes 10 s."""
    rows = []
    for attack, rate, seed in product(ATTACKS, RATES, range(SEEDS)):
        success = (0.95 if rate >= 0.03 else 0.01) + seed / 1000
        one = {"attack.name": attack, "poison_rate": rate, "seed": seed, "clean_accuracy": 0.97 + seed / 1000}
        rows.append(one | {"attack_success": success, "seconds": 10.0, "run_id": f"r{len(rows)}", "status": "FINISHED"})
    return pd.DataFrame(rows)


def histories(trials: pd.DataFrame, values: np.ndarray, epochs: int = 10) -> pd.DataFrame:
    """A measure that has its value at epoch 2 and is something else before and afterwards."""
    found = []
    for run, value in zip(trials["run_id"], values, strict=True):
        found += [
            {"run_id": run, "epoch": e, "defender/noise/entropy": value if e == 2 else 99.0} for e in (1, 2, 3, epochs)
        ]
    return pd.DataFrame(found)


def replayed(values: np.ndarray, sure: float = 0.9):
    trials = frame()
    return replay(early_trials(trials, histories(trials, values)), sure)


def truth() -> np.ndarray:
    return (frame()["attack_success"] > 0.5).to_numpy(float)


def test_a_measure_that_tells_all_stops_all_and_moves_nothing() -> None:
    found = replayed(10 * truth())
    assert (found.stopped, found.poisoned, found.wrong, found.undecided) == (36, 36, 0, 0)
    assert found.saved == pytest.approx(36 * 8 / (45 * 10))  # eight of ten epochs; nobody stops a clean trial
    assert (found.moved, found.farthest) == (0, 0)
    assert found.lines["largest defended"].tolist() == [0.01] * 3


def test_a_measure_that_tells_nothing_stops_nothing() -> None:
    found = replayed(np.random.default_rng(0).normal(size=len(frame())), sure=0.98)
    assert (found.stopped, found.saved, found.moved) == (0, 0.0, 0.0)
    assert str(found).startswith("0 of 36 trials with poison are stopped (0 wrongly, 0 of undecided settings); 0% of")


def test_a_measure_that_is_wrong_of_one_attack_moves_its_boundary() -> None:
    """The warnings of the other attacks say that blended takes hold nowhere: its boundary is at the end."""
    values = 10 * truth()
    values[(frame()["attack.name"] == "blended").to_numpy()] = 0
    found = replayed(values)
    assert found.wrong == 6
    moved = found.lines.set_index("attack")["moved"]
    assert moved["blended"] == pytest.approx(1.0)  # from 0.01 to 0.1
    assert found.farthest == pytest.approx(1.0)


def test_the_attack_that_is_judged_has_no_part_in_its_warning() -> None:
    """Of an attack whose measure says the opposite, the warning says the opposite of the truth."""
    values = 10 * truth()
    other = (frame()["attack.name"] == "wanet").to_numpy()
    values[other] = 10 - values[other]
    assert replayed(values, sure=0.6).wrong >= 12


def test_trials_in_a_file_give_the_same(tmp_path: Path) -> None:
    trials = frame()
    early = early_trials(trials, histories(trials, 10 * truth()))
    again = read_trials(write_trials(early, tmp_path / "t.csv.gz"))
    assert str(replay(again)) == str(replay(early))


def test_what_holds_no_trials_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column run_id, attack.name"):
        read_trials(write_trials(pd.DataFrame({"a": [1]}), tmp_path / "t.csv"))
    with pytest.raises(InputError, match="no measure matches mi/"):
        replay(early_trials(frame(), histories(frame(), truth())), patterns=["mi/*"])
    with pytest.raises(InputError, match="holds no trials that can be read"):
        read_trials(tmp_path / "none.csv")
