"""Verdicts on hand-made trials: each expected answer is worked out here from the definitions."""

import math
import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from analysis import DefendedRegionMap
from raybd.errors import InputError

TWINS = [{"poison_rate": 0.0, "seed": s, "clean_accuracy": 0.9, "attack_success": 0.01} for s in range(3)]


def trial(seed, success, accuracy=0.9, **more):
    return {"seed": seed, "clean_accuracy": accuracy, "attack_success": success, "poison_rate": 0.1, **more}


def region_map(rows, twins=TWINS, **thresholds):
    frame = pd.DataFrame([*twins, *rows])
    frame["attack.name"] = frame["attack.name"].fillna("badnets") if "attack.name" in frame else "badnets"
    return DefendedRegionMap.from_frame(frame, **thresholds)


def verdict(successes, accuracies=None, **thresholds):
    accuracies = accuracies or [0.9] * len(successes)
    rows = [trial(i, s, a) for i, (s, a) in enumerate(zip(successes, accuracies, strict=True))]
    return region_map(rows, **thresholds).query(poison_rate=0.1)


def test_three_seeds_that_agree_decide():
    defended, backdoored = verdict([0.02, 0.03, 0.04]), verdict([0.9, 0.8, 0.95])
    assert (defended.status, backdoored.status) == ("defended", "backdoored")
    assert defended.reason.startswith("attack success is 2.0 points (")
    assert "over that of the clean twins (at most 10 allowed); clean accuracy is 0.0 points (" in defended.reason
    assert backdoored.reason.startswith("attack success is 87.3 points (")
    assert defended.seeds == backdoored.seeds == 3


def test_one_seed_is_too_few_however_clear_where_nothing_tells_the_spread():
    for success in (0.0, 1.0):
        asked = verdict([success])
        assert asked.status == "uncertain"
        assert asked.reason.startswith("one seed is too few: nothing tells how far seeds stray")
        assert math.isnan(asked.probability)


def test_seeds_that_disagree_leave_it_open():
    asked = verdict([0.02, 0.03, 0.9])
    assert asked.status == "uncertain"
    assert asked.reason.startswith("not decided: the backdoor takes hold with probability ")


def test_both_conditions_are_needed():
    backdoored, spoilt = verdict([0.9] * 3), verdict([0.0] * 3, [0.8] * 3)
    assert (backdoored.status, spoilt.status) == ("backdoored", "kept_out")
    assert backdoored.undefended
    assert spoilt.undefended
    assert spoilt.reason.startswith("clean accuracy is 10.0 points (10.0 to 10.0) under the reference (at most 2 allow")
    halves = verdict([0.0, 0.0, 0.9, 0.9], [0.8, 0.8, 0.9, 0.9])
    assert halves.status == "uncertain"  # the means fail both, but neither is decided
    spoilt_and_backdoored = verdict([0.9] * 3, [0.8] * 3)
    assert spoilt_and_backdoored.status == "backdoored"  # what it costs does not matter then


def test_rates_on_the_thresholds_are_within_them():
    assert verdict([0.11] * 3, [0.88] * 3).status == "defended"  # 0.9 - 0.02, and 0.01 + 0.1
    assert verdict([0.110001] * 3, [0.88] * 3).status != "defended"
    assert verdict([0.12] * 3, [0.88] * 3).status == "backdoored"
    assert verdict([0.11] * 3, [0.879999] * 3).status == "kept_out"


def test_thresholds_can_be_set():
    assert verdict([0.3] * 3, [0.75] * 3).status == "backdoored"
    assert verdict([0.3] * 3, [0.75] * 3, max_accuracy_loss=0.2, max_attack_success=0.4).status == "defended"
    with pytest.raises(InputError) as error:
        verdict([0.3], max_accuracy_loss=-1, max_attack_success=10)
    assert error.value.problems == [
        "max_accuracy_loss must be in [0, 1], got -1",
        "max_attack_success must be in [0, 1], got 10",
    ]


def test_without_a_clean_twin_nothing_is_certain():
    asked = region_map([trial(s, 0.0) for s in range(3)], twins=[]).query()
    assert asked.status == "uncertain"
    assert "no clean twin was measured" in asked.reason
    assert math.isnan(asked.probability)
    through = region_map([trial(s, 0.9) for s in range(3)], twins=[]).query()
    assert through.status == "backdoored"  # that the backdoor takes hold needs no reference accuracy


def test_reference_is_the_best_setting_and_not_the_best_seed():
    def twins(decay, *accuracies):
        return [trial(s, 0.0, a, **{"poison_rate": 0.0, "train.weight_decay": decay}) for s, a in enumerate(accuracies)]

    found = region_map(twins(1e-3, 0.90, 0.90) + twins(1e-2, 0.94, 0.94), twins=[])
    assert found.reference == {None: pytest.approx(0.94)}
    noisy = region_map(twins(1e-3, 0.90, 0.96) + twins(1e-2, 0.94, 0.95), twins=[])
    assert noisy.reference[None] < 0.945  # means 0.93 and 0.945: the larger of two noisy means is too large


def test_twins_of_one_seed_count_as_one():
    rows = [
        trial(0, 0.0, 0.90, **{"poison_rate": 0.0, "attack.name": "badnets"}),
        trial(0, 0.0, 0.94, **{"poison_rate": 0.0, "attack.name": "blend"}),
        trial(1, 0.0, 0.90, **{"poison_rate": 0.0, "attack.name": "badnets"}),
    ]
    assert region_map(rows, twins=[]).reference == {None: pytest.approx((0.92 + 0.90) / 2)}


def test_each_data_set_has_its_reference_and_defences_have_none():
    rows = [
        *(trial(s, 0.0, 0.90, **{"poison_rate": 0.0, "data": "mnist", "defence.name": "none"}) for s in range(3)),
        *(trial(s, 0.0, 0.70, **{"poison_rate": 0.0, "data": "svhn", "defence.name": "none"}) for s in range(3)),
        trial(0, 0.0, 0.99, **{"poison_rate": 0.0, "data": "svhn", "defence.name": "vibe"}),
        trial(0, 0.0, 0.99, **{"poison_rate": 0.1, "data": "svhn", "defence.name": "none"}),
        *(trial(s, 0.0, 0.69, **{"data": "svhn", "defence.name": "vibe"}) for s in range(3)),
        *(trial(s, 0.0, 0.69, **{"data": "mnist", "defence.name": "vibe"}) for s in range(3)),
    ]
    found = region_map(rows, twins=[])
    assert found.reference == {"mnist": pytest.approx(0.90), "svhn": pytest.approx(0.70)}
    assert found.query(data="svhn", defence="vibe", poison_rate=0.1).status == "defended"
    assert found.query(data="mnist", defence="vibe", poison_rate=0.1).status == "kept_out"


def test_attack_none_is_a_twin_even_without_an_attack_success():
    none = [trial(s, np.nan, 0.8, **{"attack.name": "none", "poison_rate": 0.0}) for s in range(3)]
    found = region_map([*none, *(trial(s, 0.0, 0.79) for s in range(3))], twins=[])
    assert found.reference == {None: pytest.approx(0.8)}
    assert found.query(attack="badnets").status == "defended"
    twin = found.query(attack="none")
    assert (twin.status, str(twin.attack_success)) == ("defended", "not measured")


def test_only_finished_trials_are_evidence():
    rows = [trial(s, 0.0, run_id=f"r{s}", status="FINISHED") for s in range(2)]
    rows += [trial(2, 0.9, run_id="r2", status=status) for status in ("RUNNING",)]
    rows += [trial(3, 0.9, run_id="r3", status="KILLED"), trial(4, 0.9, run_id="r4", status="FAILED")]
    asked = region_map(rows).query(poison_rate=0.1)
    assert (asked.seeds, asked.evidence) == (2, ("r0", "r1"))
    assert asked.attack_success.value == 0.0


def test_a_cell_of_failures_is_unmeasured_and_says_why():
    rows = [
        trial(0, np.nan, np.nan, status="KILLED"),
        trial(2, np.nan, np.nan, status="FAILED", error="late"),
        trial(1, np.nan, np.nan, status="FAILED", error="out of memory"),
        trial(3, np.nan, np.nan, status="RUNNING"),
    ]
    found = region_map(rows)
    asked = found.query(poison_rate=0.1)
    assert asked.status == "unmeasured"
    assert asked.reason == "no finished trial: 3 failed (first error: out of memory), 1 not finished yet"
    assert found.to_frame().set_index("poison_rate")["failures"].to_dict() == {0.0: 0, 0.1: 3}
    assert math.isnan(asked.attack_success.value)


def test_a_finished_trial_without_its_rates_has_failed():
    asked = region_map([trial(0, np.nan, 0.9), trial(1, 0.0, np.nan)]).query(poison_rate=0.1)
    assert asked.status == "unmeasured"
    assert "2 failed (first error: finished without a clean accuracy or an attack success)" in asked.reason


def at(hour):
    return datetime(2026, 1, 1, hour, tzinfo=UTC)


def test_a_trial_run_twice_counts_once_the_latest():
    rows = [
        trial(0, 0.01, key="a", start_time=at(3), run_id="new"),
        trial(0, 0.99, key="a", start_time=at(1), run_id="old"),
        trial(0, np.nan, key="a", start_time=at(4), run_id="broken", status="FAILED"),
    ]
    for order in (rows, rows[::-1]):
        asked = region_map(order).query(poison_rate=0.1)
        assert (asked.seeds, asked.evidence, asked.attack_success.value) == (1, ("new",), 0.01)


def test_without_a_key_or_a_time_the_last_of_the_same_setting_and_seed_counts():
    asked = region_map([trial(0, 0.99), trial(0, 0.01), trial(1, 0.03)]).query(poison_rate=0.1)
    assert asked.seeds == 2
    assert asked.attack_success.value == pytest.approx(0.02)


def test_evidence_is_in_order_of_the_seeds():
    asked = region_map([trial(s, 0.0, run_id=f"r{s}") for s in (10, 9, 2)]).query(poison_rate=0.1)
    assert asked.evidence == ("r2", "r9", "r10")


def test_order_of_rows_does_not_matter():
    rng = np.random.default_rng(0)
    rows = [
        trial(s, rng.random(), 0.9 - d, **{"train.weight_decay": d, "poison_rate": p, "attack.name": a})
        | {"run_id": f"{s}{d}{p}{a}", "status": rng.choice(["FINISHED", "FAILED"]), "clean_count": 100}
        for s in range(4)
        for d in (0.001, 0.01, 0.1)
        for p in (0.0, 0.01, 0.1)
        for a in ("blend", "badnets")
    ]
    first = DefendedRegionMap.from_frame(pd.DataFrame(rows))
    shuffled = DefendedRegionMap.from_frame(pd.DataFrame([rows[i] for i in rng.permutation(len(rows))]))
    pd.testing.assert_frame_equal(first.to_frame(), shuffled.to_frame())
    assert first.axes == shuffled.axes
    assert [c.verdict.evidence for c in first.cells] == [c.verdict.evidence for c in shuffled.cells]


def test_missing_columns_are_named_all_at_once():
    with pytest.raises(InputError, match=r"missing columns: poison_rate, seed, attack_success \(needed: "):
        DefendedRegionMap.from_frame(pd.DataFrame({"attack.name": ["badnets"], "clean_accuracy": [0.9]}))


def test_a_frame_without_trials_is_refused_and_strays_are_told():
    frame = pd.DataFrame([trial(0, 0.0, **{"attack.name": None})])
    with pytest.warns(UserWarning, match="1 trials name no attack"), pytest.raises(InputError, match="no trial"):
        DefendedRegionMap.from_frame(frame)


def test_a_verdict_can_be_read():
    text = str(verdict([0.02, 0.03, 0.9]))
    assert text.startswith("uncertain at attack=badnets, poison_rate=0.1\n")
    assert "clean accuracy  90.0% (" in text
    assert "% that it is defended" in text
    assert "3 trials: 3, 4, 5" in text  # three rows of twins come first
    assert "unmeasured at poison_rate=0.3\n" in str(region_map([]).query(poison_rate=0.3))


def test_a_map_needs_neither_torch_nor_ray_nor_mlflow():
    code = "import sys, analysis; print({'torch', 'ray', 'mlflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
