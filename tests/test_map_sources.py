"""References, layers that never mix, BackdoorBench's leaderboard, and the numbers of the learning curves."""

import sys
from pathlib import Path

import pandas as pd
import pytest

from analysis import DefendedRegionMap
from raybd.errors import InputError
from tests.test_map_queries import BASE, defended, region_map, three, twins


def test_defended_clean_twins_are_no_reference():
    only = region_map(three(poison_rate=0.0, defence__name="vibe"), three(defence__name="vibe"))
    asked = only.query(poison_rate=0.1)
    assert (asked.status, only.reference) == ("uncertain", {})
    assert asked.reason.endswith("only clean twins under a defence were measured: the reference are those without one")
    both = region_map(
        three(accuracy=0.9, poison_rate=0.0, defence__name="none"),
        three(accuracy=0.99, poison_rate=0.0, defence__name="vibe"),
        three(accuracy=0.89, defence__name="vibe"),
    )
    assert both.reference == {None: pytest.approx(0.9)}
    assert both.query(defence="vibe", poison_rate=0.1).status == "defended"


def test_a_twin_of_the_same_setting_and_seed():
    """Accuracies of the twins: 0.90, 0.80, 0.70 by seed; the poisoned lose one point each."""

    def seeds(rate, shift, width=1, **more):
        at = {"poison_rate": rate, "model.width": width} | more
        return [BASE | at | {"seed": s, "clean_accuracy": 0.9 - 0.1 * s - shift} for s in range(3)]

    frame = [seeds(0.0, 0.0), seeds(0.1, 0.01), seeds(0.2, 0.03), seeds(0.1, 0.01, width=2)]
    own, best = region_map(*frame, reference="twin"), region_map(*frame)
    assert own.query(width=1, poison_rate=0.1).status == "defended"
    worse = own.query(width=1, poison_rate=0.2)
    assert worse.status == "kept_out"
    assert worse.reason.startswith("clean accuracy is 3.0 points (3.0 to 3.0) under the reference (at most 2 allowed)")
    assert "there is no clean twin of this setting" in own.query(width=2, poison_rate=0.1).reason
    assert best.query(width=1, poison_rate=0.1).status == "uncertain"  # seeds 10 points apart, not paired
    defence = [row | {"defence.name": "none"} for row in seeds(0.0, 0.0)]
    defence += seeds(0.1, 0.01, **{"defence.name": "vibe"})
    assert region_map(defence, reference="twin").query(poison_rate=0.1).status == "defended"


def test_thresholds_are_checked_together():
    with pytest.raises(InputError) as error:
        region_map(three(), max_attack_success=1.5, seed_spread=-1, reference="twins")
    assert error.value.problems == [
        "max_attack_success must be in [0, 1], got 1.5",
        "reference must be one of best, twin, no_defence, got 'twins'",
        "seed_spread must be in [0, 1], got -1",
    ]


def test_the_old_word_for_a_training_without_a_defence_is_accepted():
    assert region_map(three(), reference="undefended").rule.reference == "no_defence"


def test_layers_are_never_mixed():
    own, theirs = pd.DataFrame([*twins(), *three(0.0)]), pd.DataFrame([*twins(), *three(0.9)])
    own["key"] = theirs["key"] = [f"k{i}" for i in range(6)]  # the same keys: still two layers
    found = DefendedRegionMap.from_layers({"ours": own, "theirs": theirs})
    assert found.axes["source"] == ["ours", "theirs"]
    assert found.query(source="ours", poison_rate=0.1).status == "defended"
    assert found.query(source="theirs", poison_rate=0.1).status == "backdoored"
    with pytest.raises(InputError, match="several sources answer, which are never mixed: say source= one of ours, th"):
        found.query(poison_rate=0.1)
    with pytest.raises(InputError, match="several sources"):
        found.resistance("badnets")
    assert found.reference == {("ours", None): pytest.approx(0.9), ("theirs", None): pytest.approx(0.9)}
    robust = found.robust()
    assert robust.set_index("source")["robust"].to_dict() == {"ours": True, "theirs": False}


def leaderboard(
    tmp_path: Path, rows: list[str], head: str = ",dataset,backbone,attack_name,defense_name,ratio"
) -> Path:
    path = tmp_path / "results.csv"
    head = ",dataset,backbone,attack_name,defense_name,ratio,test_acc,test_asr,test_ra"
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


ROWS = [
    "0,cifar10,vgg19_bn,badnet,no defense,0.01,0.90,0.70,0.25",
    "1,cifar10,vgg19_bn,badnet,no defense,0.1,0.88,0.95,0.04",
    "2,cifar10,vgg19_bn,badnet,ft,0.1,0.89,0.02,0.88",
    "3,cifar10,vgg19_bn,badnet,anp,0.1,0.40,0.01,0.39",
    "4,cifar10,vgg19_bn,badnet,clp,0.1,-1.0,-1.0,-1.0",
    "5,cifar10,vgg19_bn,badnet,dbd,0.1,,,",
    "6,cifar10,vit_b_16,badnet,no defense,0.1,0.95,0.20,0.7",
]


def test_the_leaderboard_is_a_layer_of_single_seeds(tmp_path):
    found = DefendedRegionMap.from_backdoorbench(leaderboard(tmp_path, ROWS))
    at = {"source": "backdoorbench", "poison_rate": 0.1, "model": "vgg19_bn"}
    # logits of seeds deviate by 4 x 0.26: 95 % is 5.0 such over 10 %, 2 % is 1.6 under it, and 20 % 0.8 over it
    assert found.query(defence="none", **at).status == "backdoored"
    ft = found.query(defence="ft", **at)
    assert ft.status == "uncertain"
    assert "clean accuracy is " in ft.reason
    anp = found.query(defence="anp", **at)  # 40 % is far under 90 %, the best vgg19_bn without a defence
    assert (anp.status, anp.accuracy_loss.value) == ("kept_out", pytest.approx(0.5, abs=0.01))
    assert "no clean twin" in anp.reason
    clp = found.query(defence="clp", **at)
    assert clp.status == "unmeasured"
    assert clp.failures == ("backdoorbench cifar10 vgg19_bn badnet clp 0.1: listed without a number (-100 %)",)
    assert found.query(defence="dbd", **at).status == "unmeasured"
    assert found.query(defence="none", **at | {"model": "vit_b_16"}).status == "uncertain"
    assert found.compare("ft", "none", model="vgg19_bn").effectiveness == pytest.approx((0.93 + 1) / 2)
    wide = DefendedRegionMap.from_backdoorbench(
        leaderboard(tmp_path, ROWS), max_attack_success=0.9, max_accuracy_loss=0.6
    )
    assert wide.query(defence="ft", **at).status == "defended"  # far within both


def test_percent_and_the_plain_column_names(tmp_path):
    path = tmp_path / "plain.csv"
    path.write_text(
        "dataset,backbone,attack,defence,ratio,acc,asr,ra\nC,R,A,none,0.1,90,20,70\nC,R,A,FT,0.1,-100,-100,-100\n"
    )
    found = DefendedRegionMap.from_backdoorbench(path)
    assert found.query(defence="none").attack_success.value == pytest.approx(0.2)
    assert found.query(defence="ft").status == "unmeasured"


def test_a_leaderboard_that_is_none(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text("dataset,attack,ratio,acc,ra\na,b,0.1,1,1\n")
    with pytest.raises(InputError, match="no column backbone, defence or defense or defense_name, asr or test_asr"):
        DefendedRegionMap.from_backdoorbench(path)
    with pytest.raises(InputError, match="cannot be read"):
        DefendedRegionMap.from_backdoorbench(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="holds what is no number in: clean_accuracy"):
        DefendedRegionMap.from_backdoorbench(leaderboard(tmp_path, ["0,a,b,c,d,0.1,good,0.1,0.1"]))


# Clean accuracy and backdoor accuracy of five seeds, MNIST 7-1, 3x3 trigger, 10 % poison (Cinà et al., published files)
CURVES = {
    "svm": {
        1e-4: ([0.872, 0.878, 0.878, 0.894, 0.882], [0.128, 0.122, 0.124, 0.106, 0.122]),
        5.995e-4: ([0.952, 0.954, 0.956, 0.956, 0.954], [0.048, 0.048, 0.05, 0.042, 0.046]),
        3.594e-3: ([0.964, 0.972, 0.972, 0.97, 0.974], [0.038, 0.038, 0.056, 0.022, 0.038]),
        0.02154: ([0.972, 0.98, 0.976, 0.976, 0.976], [0.538, 0.624, 0.812, 0.512, 0.102]),
        0.1292: ([0.974, 0.976, 0.982, 0.978, 0.978], [0.956, 0.986, 0.992, 0.942, 0.972]),
        0.7743: ([0.986, 0.978, 0.982, 0.98, 0.982], [0.966, 0.982, 0.986, 0.946, 0.974]),
        1000.0: ([0.976, 0.976, 0.972, 0.98, 0.972], [0.954, 0.97, 0.972, 0.93, 0.962]),
    },
    "logistic": {
        3.594e-3: ([0.96, 0.96, 0.958, 0.96, 0.96], [0.04, 0.042, 0.054, 0.038, 0.04]),
        0.02154: ([0.964, 0.97, 0.968, 0.974, 0.972], [0.072, 0.116, 0.158, 0.05, 0.052]),
        0.1292: ([0.974, 0.98, 0.976, 0.984, 0.978], [0.508, 0.722, 0.784, 0.4, 0.286]),
        4.642: ([0.984, 0.984, 0.986, 0.984, 0.988], [0.942, 0.97, 0.984, 0.898, 0.958]),
    },
    "ridge": {
        5.995e-4: ([0.956, 0.958, 0.956, 0.96, 0.958], [0.046, 0.048, 0.054, 0.04, 0.046]),
        3.594e-3: ([0.962, 0.968, 0.97, 0.976, 0.974], [0.126, 0.312, 0.444, 0.096, 0.068]),
        0.02154: ([0.97, 0.98, 0.978, 0.978, 0.976], [0.794, 0.976, 0.992, 0.734, 0.828]),
        0.7743: ([0.982, 0.982, 0.984, 0.982, 0.982], [0.998, 0.998, 0.998, 0.998, 0.998]),
    },
}


def curve(model, loss, success):
    rows = [
        {
            "attack.name": "badnets",
            "poison_rate": 0.1,
            "model.C": c,
            "seed": s,
            "clean_accuracy": a,
            "attack_success": b,
        }
        | {"clean_count": 500, "triggered_count": 500}
        for c, rates in CURVES[model].items()
        for s, (a, b) in enumerate(zip(*rates, strict=True))
    ]
    return DefendedRegionMap.from_frame(
        pd.DataFrame(rows), max_accuracy_loss=loss, max_attack_success=success, reference="no_defence"
    )


@pytest.mark.parametrize(
    ("model", "loss", "success", "inside"),
    [
        ("svm", 0.02, 0.1, [3.594e-3]),
        ("svm", 0.05, 0.1, [5.995e-4, 3.594e-3]),
        ("logistic", 0.02, 0.1, [0.02154]),
        ("ridge", 0.02, 0.2, []),
        ("ridge", 0.02, 0.3, [3.594e-3]),
    ],
)
def test_published_learning_curves_by_their_means(model, loss, success, inside):
    found = curve(model, loss, success)
    best = {"svm": 0.9816, "logistic": 0.9852, "ridge": 0.9824}[model]
    assert best - loss - 0.002 < found.cells[0].min_accuracy <= best - loss + 1e-9  # the largest is too large
    table = found.to_frame()
    within = table[(table["clean_accuracy"] >= best - loss) & (table["attack_success"] <= success)]
    assert within["C"].tolist() == inside


def test_published_learning_curves_by_their_seeds():
    frame = curve("svm", 0.02, 0.1).to_frame().set_index("C")
    assert frame.index[frame["status"] == "defended"].tolist() == [3.594e-3]
    cell = frame.loc[3.594e-3]
    assert (cell["clean_accuracy"], cell["attack_success"]) == pytest.approx((0.9704, 0.0384))
    wide = curve("svm", 0.05, 0.1).to_frame().set_index("C")
    assert wide.index[wide["status"] == "defended"].tolist() == [5.995e-4, 3.594e-3]
    asked = curve("logistic", 0.02, 0.1).query(C=0.02154)  # 0.964 is under 0.9652; 0.116 and 0.158 are over 0.1
    assert asked.status == "uncertain"
    asked = curve("ridge", 0.02, 0.3).query(C=3.594e-3)  # 0.962 is under 0.9624; 0.312 and 0.444 are over 0.3
    assert asked.status == "uncertain"


def test_a_parquet_file_has_the_cells(tmp_path):
    pytest.importorskip("pyarrow")
    found = region_map(twins(), defended("none", [0.9] * 3, [0.9] * 3), defended("vibe", [0.0] * 3, [0.9] * 3))
    found.to_parquet(tmp_path / "map.parquet")
    back = pd.read_parquet(tmp_path / "map.parquet")
    assert back["status"].tolist() == found.to_frame()["status"].tolist()
    assert back["defence"].tolist()[1:] == ["none", "vibe"]
    with pytest.raises(InputError, match="cannot be written"):
        found.to_parquet(tmp_path / "no" / "map.parquet")


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    found = region_map(twins(), three())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "fastparquet", None)
    with pytest.raises(InputError, match="pip install pyarrow"):
        found.to_parquet(tmp_path / "map.parquet")
