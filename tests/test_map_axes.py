"""Names of axes, which parameters are axes, and what a query that hits no cell or several answers."""

import math

import pandas as pd
import pytest

from analysis import DefendedRegionMap
from analysis.values import parse
from raybd.errors import InputError

BASE = {"attack.name": "badnets", "poison_rate": 0.1, "clean_accuracy": 0.9, "attack_success": 0.02}
GOOD, BAD = {"attack_success": 0.02}, {"attack_success": 0.9}


def three(**more):
    """Three seeds at one setting; dots in names are written as double underscores."""
    parameters = {name.replace("__", "."): value for name, value in more.items()}
    return [BASE | {"seed": s} | parameters for s in range(3)]


def region_map(*cells):
    twins = [row | {"poison_rate": 0.0} for cell in cells for row in cell if row["attack_success"] == 0.02][:3]
    return DefendedRegionMap.from_frame(pd.DataFrame([*(row for cell in cells for row in cell), *twins]))


def test_axes_are_what_varies_by_short_names():
    found = region_map(
        three(train__weight_decay=0.01, model__name="cnn", model__width=1, data="digits"),
        three(train__weight_decay=0.001, model__name="mlp", model__width=1, data="digits"),
    )
    assert found.axes == {"poison_rate": [0.0, 0.1], "weight_decay": [0.001, 0.01], "model": ["cnn", "mlp"]}


def test_a_name_shared_by_two_parameters_is_written_out():
    found = region_map(three(train__noise=1, model__noise=1), three(train__noise=2, model__noise=2))
    assert list(found.axes) == ["poison_rate", "train.noise", "model.noise"]


def test_a_setting_of_an_attack_is_an_axis_only_if_it_varies_within_one():
    determined = region_map(
        three(attack__name="blend", attack__alpha=0.2), three(attack__name="badnets", attack__alpha=None)
    )
    assert list(determined.axes) == ["attack", "poison_rate"]
    varying = region_map(
        three(attack__name="blend", attack__alpha=0.2),
        three(attack__name="blend", attack__alpha=0.1),
        three(attack__name="badnets", attack__alpha=None),
    )
    assert varying.axes["alpha"] == [0.1, 0.2]
    assert varying.query(attack="badnets", poison_rate=0.1).seeds == 3


def test_a_determined_or_constant_parameter_may_be_asked():
    found = region_map(
        three(attack__name="blend", attack__alpha=0.2, data="digits"),
        three(attack__name="badnets", attack__alpha=None, data="digits"),
    )
    assert found.query(attack="blend", alpha=0.2, data="digits", poison_rate=0.1).status == "defended"
    other = found.query(attack="blend", poison_rate=0.1, data="mnist")
    assert (other.status, other.reason) == ("unmeasured", "data=mnist was not measured (measured: digits)")
    assert found.query(attack="badnets", alpha=0.2).status == "unmeasured"


def test_the_fingerprint_goes_with_its_data():
    assert "fingerprint" not in region_map(three(data="a", fingerprint="x"), three(data="b", fingerprint="y")).axes


def test_short_and_full_names_are_the_same_question():
    found = region_map(three(train__weight_decay=0.01), three(train__weight_decay=0.1, **BAD))
    for name in ("weight_decay", "train.weight_decay"):
        full = found.query(**{"attack.name": "badnets", "poison_rate": 0.1, name: 0.1})
        assert full.status == "backdoored"
        assert full.setting == {"attack": "badnets", "poison_rate": 0.1, "weight_decay": 0.1}
    with pytest.raises(InputError, match=r"given twice, by its short and its full name: train.weight_decay"):
        found.query(**{"weight_decay": 0.1, "train.weight_decay": 0.1})


def test_unknown_axes_are_listed_all_with_the_valid():
    found = region_map(three(train__weight_decay=0.01, model__width=1))
    with pytest.raises(InputError) as error:
        found.query(weigth_decay=0.1, seed=0, attack="badnets")
    assert str(error.value) == (
        "unknown axis: weigth_decay, seed (known: attack, poison_rate, weight_decay, width; did you mean weight_decay?)"
    )
    for ask in (lambda: found.slice("poison_rate", "depth"), lambda: found.robust("depth")):
        with pytest.raises(InputError, match="unknown axis: depth"):
            ask()


def test_numbers_match_within_1e_9():
    found = region_map(three(), three(poison_rate=0.1 + 1e-12)[:1], three(poison_rate=0.3)[:1])
    assert found.axes["poison_rate"] == [0.0, 0.1, 0.3]
    assert found.query(poison_rate=0.1 * (1 + 5e-10)).status == "defended"
    assert found.query(poison_rate=0.1 * (1 + 5e-9)).status == "unmeasured"
    assert found.query(poison_rate=0.1 + 0.2).seeds == 1  # 0.30000000000000004


def test_a_whole_number_is_the_number_it_equals():
    assert region_map(three(train__epochs=20), three(train__epochs=40)).query(epochs=20.0).seeds == 3


def test_an_unmeasured_value_names_its_neighbours():
    found = region_map(three(poison_rate=0.01), three(poison_rate=0.05), three(poison_rate=0.2))
    for value, near in {0.03: "0.01, 0.05", 0.5: "0.2", 0.001: "0, 0.01"}.items():
        asked = found.query(poison_rate=value)
        assert asked.status == "unmeasured"
        assert asked.reason == f"poison_rate={value} was not measured (nearest measured: {near})"
        assert (asked.seeds, asked.evidence) == (0, ())
        assert math.isnan(asked.probability)


def test_an_unmeasured_word_lists_the_measured():
    asked = region_map(three(), three(attack__name="blend")).query(attack="wanet", poison_rate=0.3)
    assert asked.reason == (
        "attack=wanet was not measured (measured: badnets, blend); "
        "poison_rate=0.3 was not measured (nearest measured: 0.1)"
    )


def test_values_that_were_not_measured_together():
    found = region_map(three(), three(attack__name="blend", poison_rate=0.01))
    asked = found.query(attack="blend", poison_rate=0.1)
    assert asked.status == "unmeasured"
    assert asked.reason == "at poison_rate=0.1, attack=blend was not measured (measured: badnets)"


def cells(*outcomes):
    """One cell for each width: good, bad, "failed", or a single good seed."""
    made = {
        "good": lambda w: three(model__width=w, **GOOD),
        "bad": lambda w: three(model__width=w, **BAD),
        "open": lambda w: three(model__width=w, **GOOD)[:1],
        "failed": lambda w: three(model__width=w, status="FAILED", attack_success=None, clean_accuracy=None),
    }
    twins = three(poison_rate=0.0, model__width=0)
    rows = [row for i, outcome in enumerate(outcomes) for row in made[outcome](i + 1)]
    return DefendedRegionMap.from_frame(pd.DataFrame([*twins, *rows])).query(poison_rate=0.1)


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [
        (("good", "good"), "defended"),
        (("bad", "bad"), "backdoored"),
        (("good", "bad"), "uncertain"),
        (("good", "open"), "uncertain"),
        (("good", "failed"), "uncertain"),
        (("bad", "failed"), "uncertain"),
        (("failed", "failed"), "unmeasured"),
    ],
)
def test_an_axis_left_out_is_answered_conservatively(outcomes, status):
    assert cells(*outcomes).status == status


def test_what_several_cells_say_together():
    asked = cells("good", "bad", "open", "bad", "failed")
    assert asked.reason == ("5 cells match, over width (5): 1 defended, 2 backdoored, 1 uncertain, 1 unmeasured")
    assert math.isnan(asked.probability)  # that of the single seed is not known
    assert asked.attack_success.value == pytest.approx((0.02 + 0.9 + 0.02 + 0.9) / 4)
    assert (asked.attack_success.low, asked.attack_success.high) == (0.0, 1.0)  # the single seed has no count
    assert (asked.seeds, len(asked.evidence)) == (1, 10)
    assert "no finished trial: 3 failed" in cells("failed", "failed").reason


def test_the_interval_of_several_cells_is_the_hull_of_theirs():
    wide = three(model__width=1, clean_count=10) + three(model__width=2, clean_count=1000, clean_accuracy=0.5)
    found = region_map(wide)
    pair = [found.query(width=w, poison_rate=0.1).clean_accuracy for w in (1, 2)]
    both = found.query(poison_rate=0.1).clean_accuracy
    assert both.value == pytest.approx(0.7)
    assert (both.low, both.high) == (pair[1].low, pair[0].high)


def test_logged_words_become_what_they_mean():
    means = {"0.05": 0.05, "1e-3": 0.001, "20": 20, "True": True, "None": None, "(1, 2)": (1, 2), "[1, 2]": (1, 2)}
    assert {text: parse(text) for text in means} == means
    for word in ("badnets", "none", "'quoted'", "{'a': 1}", "npz:/a b"):
        assert parse(word) == word


def test_a_map_is_loaded_from_the_tracking_store(monkeypatch):
    def load_runs(experiment, tracking_uri=None):
        assert (experiment, tracking_uri) == ("ib", "sqlite:///x.db")
        common = {"params.attack.name": "blend", "params.data": "digits", "params.attack.alpha": "None"}
        runs = [
            common
            | {"run_id": f"r{seed}-{rate}", "status": "FINISHED", "tags.raybd.key": f"{seed}-{rate}"}
            | {"params.seed": str(seed), "params.poison_rate": rate, "params.train.weight_decay": "5e-4"}
            | {"metrics.accuracy/clean": 0.9, "metrics.attack_success": success, "metrics.loss/train": 0.1}
            | {"metrics.count/clean": 360.0, "metrics.count/triggered": 324.0, "tags.mlflow.user": "root"}
            for seed in range(10, 7, -1)
            for rate, success in (("0.0", 0.0), ("0.05", 0.9))
        ]
        failed = common | {"run_id": "f", "status": "FAILED", "tags.raybd.error": "boom", "params.seed": "0"}
        return pd.DataFrame([*runs, failed | {"params.poison_rate": "0.1", "params.train.weight_decay": "0.0005"}])

    monkeypatch.setattr("raybd.tracking.load_runs", load_runs)
    found = DefendedRegionMap.from_mlflow("ib", "sqlite:///x.db", max_attack_success=0.2)
    assert found.axes == {"poison_rate": [0.0, 0.05, 0.1]}
    assert found.reference == {"digits": pytest.approx(0.9)}
    asked = found.query(attack="blend", poison_rate=0.05, weight_decay=5e-4)
    assert (asked.status, asked.evidence) == ("backdoored", ("r8-0.05", "r9-0.05", "r10-0.05"))
    assert asked.attack_success.low > 0.85  # the counts were read
    assert "boom" in found.query(poison_rate=0.1).reason


def test_a_sweep_that_logged_nothing_or_finished_nothing(monkeypatch):
    runs = pd.DataFrame([{"run_id": "a", "status": "FAILED", "params.seed": "0"}])
    runs = runs.assign(**{"params.attack.name": "blend", "params.poison_rate": "0.1"})
    monkeypatch.setattr("raybd.tracking.load_runs", lambda *_, **__: runs)
    assert DefendedRegionMap.from_mlflow("ib").query().status == "unmeasured"
    monkeypatch.setattr("raybd.tracking.load_runs", lambda *_, **__: runs[:0])
    with pytest.raises(InputError, match="no trial is logged in 'ib'"):
        DefendedRegionMap.from_mlflow("ib")
