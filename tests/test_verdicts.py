"""What a map says of planted trials: each expected answer is worked out here, or is the truth that was planted."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import logit

from analysis import DefendedRegionMap
from analysis.decision import discoveries
from analysis.records import canonical_frame
from analysis.reference import best_of
from tests.benchmarks.planted_verdicts import SHAPES, costless, covered, judged, plant, share
from tests.test_map_queries import NAN, region_map, three, twins


def cell(successes, accuracies=None, **more):
    """Seeds with these attack successes and clean accuracies."""
    accuracies = [0.9] * len(successes) if accuracies is None else accuracies
    rows = three(seeds=len(successes), **more)
    pairs = zip(rows, successes, accuracies, strict=True)
    return [row | {"attack_success": s, "clean_accuracy": a} for row, s, a in pairs]


SPREAD = [0.9, 0.905, 0.895]  # accuracies of three seeds, so that something tells their spread


# Attack success in excess of the clean twins'


def test_three_clean_networks_of_five_classes_are_not_backdoored():
    found = region_map(
        cell([0.08, 0.09, 0.11], SPREAD, poison_rate=0.0), cell([0.08, 0.09, 0.11], SPREAD, poison_rate=0.01)
    )
    asked = found.query(poison_rate=0.01)
    assert (asked.status, asked.attack_success_excess.value) == ("defended", pytest.approx(0.0))
    assert asked.attack_success.value == pytest.approx(0.28 / 3)  # the raw rate stays


def test_two_classes_at_85_percent_are_defended_without_an_attack():
    clean = cell([0.15, 0.17, 0.14], SPREAD, poison_rate=0.0)
    same, worse = cell([0.16, 0.15, 0.15], SPREAD), cell([0.6, 0.66, 0.59], SPREAD, poison_rate=0.2)
    found = region_map(clean, same, worse)
    assert found.query(poison_rate=0.1).status == "defended"
    assert found.query(poison_rate=0.2).status == "backdoored"


def test_the_excess_is_paired_by_seed():
    """Seeds differ by 30 points, the attack adds 20, 21 and 22 to each: paired it is clear, unpaired it is not."""
    clean, attacked = [0.1, 0.3, 0.4], [0.3, 0.51, 0.62]
    asked = region_map(cell(clean, SPREAD, poison_rate=0.0), cell(attacked, SPREAD)).query(poison_rate=0.1)
    assert (asked.status, asked.attack_success_excess.value) == ("backdoored", pytest.approx(0.21))
    half = stats.t.ppf(0.95, 2) * 0.01 / math.sqrt(3)  # deviation of 20, 21 and 22: one cell, so nothing is lent
    assert asked.attack_success_excess.low == pytest.approx(0.21 - half, abs=2e-3)
    moved = [row | {"seed": row["seed"] + 10} for row in cell(attacked, SPREAD)]  # no seed has its twin
    unpaired = region_map(cell(clean, SPREAD, poison_rate=0.0), moved).query(poison_rate=0.1)
    assert unpaired.attack_success_excess.value == pytest.approx(0.21)
    assert unpaired.status == "uncertain"


def test_some_seeds_without_a_twin_take_those_of_the_others():
    found = region_map(cell([0.1, 0.2], SPREAD[:2], poison_rate=0.0), cell([0.3, 0.4, 0.5, 0.6], [*SPREAD, 0.9]))
    assert found.query(poison_rate=0.1).attack_success_excess.value == pytest.approx(0.45 - 0.15)


def test_the_twin_has_the_same_attack_and_the_same_defence():
    found = region_map(
        cell([0.0] * 3, SPREAD, poison_rate=0.0, defence__name="none"),
        cell([0.3, 0.31, 0.3], SPREAD, poison_rate=0.0, defence__name="vibe"),
        cell([0.32, 0.33, 0.31], SPREAD, defence__name="vibe"),
        cell([0.32, 0.33, 0.31], SPREAD, defence__name="none"),
        cell([0.32, 0.33, 0.31], SPREAD, defence__name="none", attack__name="blend"),
    )
    at = {"poison_rate": 0.1, "attack": "badnets"}
    assert found.query(defence="vibe", **at).attack_success_excess.value == pytest.approx(0.05 / 3)
    assert found.query(defence="vibe", **at).status == "defended"
    assert found.query(defence="none", **at).status == "backdoored"
    alone = found.query(poison_rate=0.1, attack="blend", defence="none")
    assert alone.attack_success_excess.value == alone.attack_success.value == pytest.approx(0.32)
    assert "no clean twin, so nothing is taken off" in alone.reason
    assert "without a clean twin" in str(alone)
    assert not alone.above_twins
    known = found.query(defence="vibe", **at)
    assert known.above_twins
    assert "over its twins' by" in str(known)
    assert not found.query(poison_rate=0.1, defence="none").above_twins  # of two attacks one has none


def test_what_is_allowed_bounds_the_excess():
    rows = [cell([0.3] * 3, SPREAD, poison_rate=0.0), cell([0.42, 0.43, 0.41], SPREAD)]
    assert region_map(*rows, max_attack_success=0.2).query(poison_rate=0.1).status == "defended"
    assert region_map(*rows, max_attack_success=0.05).query(poison_rate=0.1).status == "backdoored"


def test_the_probability_is_that_of_two_t_tests():
    success, accuracy, reference = [0.05, 0.07, 0.12], [0.885, 0.90, 0.89], [0.9, 0.91, 0.905]
    found = region_map(cell([0.01] * 3, reference, poison_rate=0.0), cell(success, accuracy))
    excess = np.array(success) - 0.01
    error = excess.std(ddof=1) / math.sqrt(3)
    slope = 0.08 * 0.92
    held = max(
        stats.t.cdf((excess.mean() - 0.1) / error, 2), stats.t.cdf((logit(0.08) - logit(0.11)) / (error / slope), 2)
    )
    a, b = np.var(accuracy, ddof=1) / 3, np.var(reference, ddof=1) / 3
    freedom = (a + b) ** 2 / (a**2 / 2 + b**2 / 2)  # Welch
    lost = stats.t.cdf((np.mean(reference) - np.mean(accuracy) - 0.02) / math.sqrt(a + b), freedom)
    assert found.query(poison_rate=0.1).probability == pytest.approx((1 - held) * (1 - lost), abs=1e-6)


# Five statuses


def test_the_five_statuses():
    found = region_map(
        cell([0.01] * 3, SPREAD, poison_rate=0.0),
        cell([0.01, 0.02, 0.01], SPREAD, poison_rate=0.01),
        cell([0.01, 0.02, 0.01], [0.8, 0.81, 0.79], poison_rate=0.02),
        cell([0.9, 0.92, 0.91], SPREAD, poison_rate=0.03),
        cell([0.05, 0.9, 0.1], SPREAD, poison_rate=0.04),
        cell([NAN] * 3, [NAN] * 3, poison_rate=0.05),
        cell([0.9, 0.92, 0.91], [0.5, 0.52, 0.51], poison_rate=0.06),
    )
    asked = {rate: found.query(poison_rate=rate) for rate in found.axes["poison_rate"]}
    statuses = ["defended", "defended", "kept_out", "backdoored", "uncertain", "unmeasured", "backdoored"]
    assert [v.status for v in asked.values()] == statuses
    assert [v.undefended for v in asked.values()] == [False, False, True, True, False, False, True]
    assert asked[0.02].reason.startswith("clean accuracy is 10.0 points (")
    assert found.query(poison_rate=0.02).accuracy_loss.value == pytest.approx(0.1)
    assert {"accuracy_loss", "attack_success_excess"} <= asked[0.02].to_dict().keys()


def test_cells_without_poison_are_judged_by_accuracy_and_enter_no_share():
    found = region_map(
        cell([0.5, 0.6, 0.55], SPREAD, poison_rate=0.0, model__width=1),
        cell([0.01] * 3, [0.7, 0.71, 0.69], poison_rate=0.0, model__width=2),
        cell([0.52, 0.6, 0.55], SPREAD, model__width=1),
        cell([0.01, 0.02, 0.01], [0.7, 0.71, 0.69], model__width=2),
    )
    clean = [found.query(poison_rate=0, width=width).status for width in (1, 2)]
    assert clean == ["defended", "kept_out"]  # whatever the trigger does to a network that never saw it
    assert found.robust(over="attack")["robust"].tolist() == [True, False]
    assert found.best()[["width", "cells"]].to_numpy().tolist() == [[1, 1], [2, 1]]


@pytest.mark.parametrize("bad", [-0.1, 1.2, math.inf])
@pytest.mark.parametrize("name", ["metrics.attack_success", "metrics.accuracy/clean"])
def test_an_impossible_rate_in_a_store_is_a_failed_trial(name, bad):
    metrics = {"attack_success": "metrics.attack_success", "clean_accuracy": "metrics.accuracy/clean"}
    rows = pd.DataFrame([*twins(), *cell([0.0] * 3, SPREAD)]).rename(columns=metrics)
    rows = rows.rename(columns={n: f"params.{n}" for n in ("attack.name", "poison_rate", "seed")})
    rows = rows.assign(status="FINISHED", run_id=[f"r{i}" for i in range(len(rows))])
    rows.loc[3, name] = bad
    asked = DefendedRegionMap.from_frame(canonical_frame(rows)).query(poison_rate=0.1)
    assert asked.seeds == 2
    assert asked.failures == ("r3: finished with a clean accuracy or an attack success outside [0, 1]",)


# How sure


def test_a_status_needs_its_probability():
    rows = [cell([0.01] * 3, SPREAD, poison_rate=0.0), cell([0.03, 0.05, 0.09], SPREAD)]
    probability = region_map(*rows).query(poison_rate=0.1).probability
    for least, status in ((probability - 0.01, "defended"), (probability + 0.01, "uncertain")):
        assert region_map(*rows, min_probability=least).query(poison_rate=0.1).status == status


def test_the_false_discovery_rate_by_hand():
    p_values = np.array([0.001, 0.02, 0.03, 0.04, 0.9, NAN, 0.0001])
    tested = np.array([True] * 6 + [False])
    # of six at 6 %: .01 k is .01, .02, .03, .04, ...: four; at 5 %: .0083 k: .001 alone
    assert discoveries(p_values, tested, 0.06).tolist() == [True] * 4 + [False] * 3
    assert discoveries(p_values, tested, 0.05).tolist() == [True] + [False] * 6
    known = stats.false_discovery_control(np.nan_to_num(p_values[tested], nan=1.0)) <= 0.06
    assert discoveries(p_values, tested, 0.06)[tested].tolist() == known.tolist()


def test_the_false_discovery_rate_is_held_over_the_map_and_said():
    rng = np.random.default_rng(0)
    loose = judged(plant("monotone", 8, rng), 3, 0.02, np.random.default_rng(1))
    held = judged(
        plant("monotone", 8, np.random.default_rng(0)), 3, 0.02, np.random.default_rng(1), false_discovery_rate=0.01
    )
    assert (held["status"] == "defended").sum() < (loose["status"] == "defended").sum()
    rows = [twins(), cell([0.01, 0.02, 0.01], SPREAD)]
    assert "false discovery rate at most 5% over 1 cells" in region_map(*rows, false_discovery_rate=0.05).table.notes[0]
    assert region_map(*rows).table.notes == []


def test_the_largest_of_several_noisy_means_is_corrected():
    """Eight settings of one true mean, 5 seeds of 1.1 points: the largest measured mean is .7 points too large."""
    rng = np.random.default_rng(5)
    raw, corrected, held = [], [], []
    for _ in range(400):
        means = 0.93 + 0.011 / math.sqrt(5) * rng.standard_normal(8)
        best, squared = best_of(means, np.full(8, 0.011**2 / 5))
        raw.append(means.max() - 0.93)
        corrected.append(best - 0.93)
        held.append(abs(best - 0.93) <= 1.645 * math.sqrt(squared))
    assert np.mean(raw) > 0.006
    assert abs(np.mean(corrected)) < 0.002
    assert np.mean(held) > 0.83  # .87 in the mean: how far settings differ is itself estimated


def test_the_reference_of_clearly_different_settings_is_the_best():
    best, squared = best_of(np.array([0.93, 0.80, 0.30]), np.full(3, 0.005**2))
    assert (best, math.sqrt(squared)) == (pytest.approx(0.93), pytest.approx(0.005))
    collapsed, _ = best_of(np.array([0.93, 0.931, 0.929, 0.3]), np.full(4, 0.005**2))
    assert collapsed == pytest.approx(0.93, abs=5e-4)  # one that collapsed does not keep the others apart
    assert best_of(np.array([0.9, 0.95]), np.array([NAN, 0.0])) == (0.95, 0.0)
    assert math.isnan(best_of(np.array([0.9]), np.array([NAN]))[1])


def found_costless(settings, seeds, deviation=0.011, draws=10):
    draw = (np.random.default_rng([n, settings, seeds]) for n in range(draws))
    return np.mean([share(judged(costless(settings), seeds, deviation, rng)["status"] == "defended") for rng in draw])


def test_more_seeds_and_more_settings_find_more_of_what_costs_nothing():
    few, more, many = (found_costless(2, seeds) for seeds in (3, 5, 10))
    assert few < more < many
    assert more >= 0.9
    assert found_costless(8, 5) >= more - 0.02


@pytest.mark.parametrize("shape", SHAPES)
def test_of_planted_maps_few_verdicts_are_wrong(shape):
    tables = []
    for draw in range(12):
        rng = np.random.default_rng([draw, len(shape)])
        tables.append(judged(plant(shape, 2 + 6 * (draw % 2), rng), 3 + 2 * (draw % 2), 0.01, rng))
    table = pd.concat(tables)
    for status in ("defended", "backdoored", "kept_out"):
        said = table[table["status"] == status]
        assert len(said) > 20
        assert share(said["truth"] != status) <= 0.05
    assert 0.86 <= covered(table, "clean_accuracy", "true_accuracy") <= 0.94
    assert covered(table, "attack_success", "true_success") >= 0.87


def test_a_reason_says_whether_the_spread_of_seeds_was_lent_or_stated():
    rows = [twins(seeds=1), three(0.01, seeds=1), three(0.01, seeds=1, poison_rate=0.2)]
    stated = region_map(*rows, seed_spread=0.1, accuracy_spread=0.03).query(poison_rate=0.1)
    assert "stated, not measured" in stated.reason
    assert "lent" not in stated.reason
    several = [
        cell([0.01] * 3, SPREAD, poison_rate=0.0),
        cell([0.01, 0.02, 0.01], SPREAD),
        cell([0.01, 0.02, 0.02], [0.9, 0.91, 0.9], poison_rate=0.05),
        three(seeds=1, poison_rate=0.2),
    ]
    lent = region_map(*several).query(poison_rate=0.2)
    assert "lent by other cells" in lent.reason
    assert "stated" not in lent.reason


# Columns that have one value


def test_a_source_of_one_value_does_not_turn_robust_upside_down():
    rows = []
    for attack in ("badnets", "blend"):
        for decay, success in ((1e-4, 0.9), (1e-2, 0.0)):
            for rate in (0.0, 0.1):
                level = success if rate else 0.0
                rows += three(level, poison_rate=rate, attack__name=attack, train__weight_decay=decay)
    for table in (pd.DataFrame(rows), pd.DataFrame(rows).assign(source="x")):
        robust = DefendedRegionMap.from_frame(table).robust()
        assert robust[["weight_decay", "robust"]].to_numpy().tolist() == [[1e-2, True], [1e-4, False]]
    assert DefendedRegionMap.from_layers({"x": pd.DataFrame(rows)}).robust()["robust"].tolist() == [True, False]
    two = DefendedRegionMap.from_layers({"x": pd.DataFrame(rows), "y": pd.DataFrame(rows)})
    assert two.robust(over="source").groupby("weight_decay")["robust"].all().to_dict() == {1e-4: False, 1e-2: True}
    assert not two.robust(over="source").query("weight_decay == 1e-4")["robust"].any()


# Tables of single seeds


def test_a_published_kind_of_table_has_defended_settings(tmp_path):
    """Six attacks and three defences at one seed: one that removes the backdoor at no cost, one at a cost, none."""
    rng, lines = np.random.default_rng(0), ["dataset,backbone,attack,defence,ratio,acc,asr,ra"]
    for attack in "abcdef":
        for ratio in (0.01, 0.1):
            for defence, accuracy, success in (("none", 0.93, 0.95), ("good", 0.928, 0.006), ("dear", 0.85, 0.006)):
                numbers = accuracy + 0.002 * rng.standard_normal(), success * rng.uniform(0.9, 1.05)
                lines.append(f"cifar10,preact,{attack},{defence},{ratio},{numbers[0]:.4f},{min(numbers[1], 1):.4f},0")
    path = tmp_path / "results.csv"
    path.write_text("\n".join(lines))
    found = DefendedRegionMap.from_backdoorbench(path)
    table = found.to_frame().groupby("defence")["status"].agg(lambda s: s.value_counts().idxmax())
    assert table.to_dict() == {"none": "backdoored", "good": "defended", "dear": "kept_out"}
    assert found.best()["defence"].tolist()[0] == "good"
    assert found.resistance("a").rate == 0.1
    assert found.boundary(attack="b", defence="good")["largest defended"].tolist() == [0.1]
    assert found.boundary(attack="b", defence="dear")["high"].tolist() == [0.01]
    assert found.robust().set_index("defence").groupby("defence")["robust"].any().to_dict() == {
        "dear": False,
        "good": True,
        "none": False,
    }


def flat_map(deviation, rng):
    """2 settings x 20 rates at three seeds: attack success 2 and 90 %, with one deviation in rates; nothing costs."""
    axes = {"train.weight_decay": [1e-4, 1e-2], "poison_rate": [0.0, *np.geomspace(1e-3, 0.2, 20)], "seed": range(3)}
    frame = pd.MultiIndex.from_product(axes.values(), names=axes).to_frame(index=False)
    truth = np.where(frame["poison_rate"] < 0.01, 0.02, 0.9)
    rates = {"attack_success": truth + deviation * rng.standard_normal(len(frame))}
    rates["clean_accuracy"] = 0.92 + 0.01 * rng.standard_normal(len(frame))
    return frame.assign(**{"attack.name": "badnets"}, **{name: column.clip(0, 1) for name, column in rates.items()})


def test_where_seeds_deviate_alike_at_all_rates_intervals_hold():
    """Near 0 a spread in proportion to p (1 - p) would be lent from a mean that is itself too low."""
    held = []
    for draw in range(12):
        found = DefendedRegionMap.from_frame(flat_map(0.005, np.random.default_rng(draw))).to_frame()
        low = found[(found["poison_rate"] > 0) & (found["poison_rate"] < 0.01)]
        held.append(share(low["attack_success_low"].le(0.02) & low["attack_success_high"].ge(0.02)))
    assert np.mean(held) >= 0.87
