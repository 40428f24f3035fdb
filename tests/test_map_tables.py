"""Robust settings, the table for the terminal, and the speed of a large map."""

import time

import pandas as pd
import pytest

from analysis import DefendedRegionMap
from analysis.summary import summary


def rows(success, accuracy=0.9, seeds=3, **parameters):
    parameters = {name.replace("__", "."): value for name, value in parameters.items()}
    base = {"attack.name": "badnets", "data": "digits", "model.name": "cnn"} | parameters
    return [base | {"seed": s, "clean_accuracy": accuracy, "attack_success": success} for s in range(seeds)]


def test_robust_needs_every_attack_measured_and_defended():
    trials = [
        *rows(0.0, attack__name="none", poison_rate=0.0, train__weight_decay=0.1),
        *rows(0.0, attack__name="none", poison_rate=0.1, train__weight_decay=0.1),
        *rows(0.0, attack__name="badnets", poison_rate=0.0, train__weight_decay=0.1),
        *rows(0.01, attack__name="badnets", poison_rate=0.1, train__weight_decay=0.1),
        *rows(0.9, attack__name="blend", poison_rate=0.1, train__weight_decay=0.1),
        *rows(0.01, attack__name="badnets", poison_rate=0.1, train__weight_decay=0.2),
        *rows(0.05, attack__name="badnets", poison_rate=0.1, train__weight_decay=0.3),
        *rows(0.03, attack__name="blend", poison_rate=0.1, train__weight_decay=0.3),
    ]
    found = DefendedRegionMap.from_frame(pd.DataFrame(trials)).robust(over="attack")
    assert found.to_dict("list") == {
        "poison_rate": [0.1, 0.1, 0.1],
        "weight_decay": [0.3, 0.1, 0.2],
        "defended against": [2, 1, 1],
        "measured": [2, 2, 1],
        "robust": [True, False, False],
        "worst attack success": pytest.approx([0.05, 0.9, 0.01]),
    }


def test_robust_pools_the_settings_of_an_attack():
    trials = [
        *rows(0.0, poison_rate=0.0, attack__alpha=None),
        *rows(0.0, poison_rate=0.1, attack__alpha=None),
        *rows(0.0, attack__name="blend", poison_rate=0.1, attack__alpha=0.1),
        *rows(0.9, attack__name="blend", poison_rate=0.1, attack__alpha=0.2),
    ]
    (row,) = DefendedRegionMap.from_frame(pd.DataFrame(trials)).robust().to_dict("records")
    assert (row["defended against"], row["measured"], row["robust"]) == (1, 2, False)


def test_the_summary_is_a_table_for_a_terminal():
    trials = [
        *rows(0.0, poison_rate=0.0, seeds=1),
        *rows(0.1, poison_rate=0.1, seeds=1),
        {**rows(0.3, poison_rate=0.1)[1], "clean_accuracy": 0.8},
        {**rows(0.3, poison_rate=0.1)[2], "status": "FAILED"},
    ]
    # 90 and 80: mean 85, deviation sqrt((25 + 25) / 1) = 7.1; 10 and 30: 20 and sqrt(200) = 14.1
    assert summary(DefendedRegionMap.from_frame(pd.DataFrame(trials))).splitlines() == [
        "attack   poison_rate  ACC %       ASR %        excess  loss  P %  verdict",
        "badnets  0            90.0        0.0          0.0     0.0   -    uncertain",
        "badnets  0.1          85.0 ± 7.1  20.0 ± 14.1  20.0    5.0   -    uncertain (1 failed)",
    ]


def test_ten_thousand_trials_load_and_answer_fast():
    axes = {"attack.name": list("abcd"), "poison_rate": [0, 0.01, 0.02, 0.05, 0.1], "model.width": [1, 2, 3, 4]}
    axes |= {"train.weight_decay": [1, 2, 3, 4, 5], "train.epochs": [1, 2, 3, 4, 5], "seed": range(5)}
    frame = pd.MultiIndex.from_product(axes.values(), names=axes).to_frame(index=False)
    frame = frame.assign(clean_accuracy=0.9, attack_success=0.05, clean_count=1000, triggered_count=900)
    assert len(frame) == 10_000
    start = time.perf_counter()
    found = DefendedRegionMap.from_frame(frame)
    loaded = time.perf_counter()
    for width in (1, 2, 3, 9):
        found.query(attack="a", width=width, poison_rate=0.02)
    assert loaded - start < 10
    assert (time.perf_counter() - loaded) / 4 < 0.02
