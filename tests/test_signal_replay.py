"""Stopping on a warning, replayed: planted measures that tell all, nothing, and the wrong thing."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from analysis.signal import replay
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
    return replay(trials, histories(trials, values), [(0.2, sure)])


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


def test_stages_speak_one_after_another_and_the_first_that_is_sure_stops() -> None:
    """By hand: at epoch 1 of 10 the measure tells all of badnets and blended, at epoch 2 of every attack."""
    trials = frame()
    early = np.where(trials["attack.name"] == "wanet", 5.0, 10 * truth())
    found = histories(trials, 10 * truth())
    found.loc[found["epoch"] == 1, "defender/noise/entropy"] = early
    assert replay(trials, found, [(0.1, 0.8)]).stopped == 24
    both = replay(trials, found, [(0.2, 0.9), (0.1, 0.8)])
    assert (both.stopped, both.wrong) == (36, 0)
    assert both.saved == pytest.approx((24 * 9 + 12 * 8) / (45 * 10))


def test_what_no_measure_matches_is_refused() -> None:
    trials = frame()
    with pytest.raises(InputError, match="no measure matches mi/"):
        replay(trials, histories(trials, truth()), patterns=["mi/*"])
    with pytest.raises(InputError, match="no measure matches run_id"):  # nor is a column that is no measure
        replay(trials, histories(trials, truth()), patterns=["run_id"])
