"""Named settings, the most robust one, and tables of trials in files: each answer worked out here."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import DefendedRegionMap, trial_file
from analysis.records import canonical_frame
from raybd.errors import InputError

ATTACKS = {"badnets": False, "blended": False, "sig": True}  # and whether it was held out
# defence settings: (kappa, deploy, names), (clean accuracy, attack success by attack, seconds)
DEFENCES = {
    "none": ((None, None, ""), (0.98, (0.99, 0.95, 0.9), 4.0)),
    "default": ((10.0, None, "vibe:default"), (0.92, (0.01, 0.01, 0.01), 20.0)),
    "winner": ((40.0, "retrained", "vibe:winner"), (0.975, (0.01, 0.02, 0.9), 24.0)),
    "tried": ((30.0, "retrained", ""), (0.979, (0.02,), 24.0)),  # a candidate that met one attack alone
}


def study(seeds: int = 3) -> pd.DataFrame:
    """Trials with seeds that agree to a tenth of a point; every defence has its clean twins."""
    rng, rows = np.random.default_rng(0), []
    for name, ((kappa, deploy, alias), (accuracy, successes, seconds)) in DEFENCES.items():
        cells = [("none", 0.0, 0.0), *((a, 0.1, s) for a, s in zip(ATTACKS, successes, strict=False))]
        for attack, rate, success in cells:
            for seed in range(seeds):
                rows.append(
                    {
                        "run_id": f"{name} {attack} {seed}",
                        "seed": seed,
                        "attack.name": attack,
                        "poison_rate": rate,
                        "defence.name": "none" if name == "none" else "vibe",
                        "defence.kappa": kappa,
                        "defence.deploy": deploy,
                        "data": "npz:/somewhere/else/mine.npz",
                        "model.name": "small_cnn",
                        "alias": alias,
                        "held_out": "true" if ATTACKS.get(attack) else None,
                        "clean_accuracy": accuracy + rng.normal(0, 0.001),
                        "attack_success": float(np.clip(success + rng.normal(0, 0.001), 0, 1)),
                        "seconds": seconds,
                        "clean_count": 2000,
                        "triggered_count": 1800,
                    }
                )
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def region() -> DefendedRegionMap:
    return DefendedRegionMap.from_frame(study())


def test_a_name_stands_for_every_setting(region: DefendedRegionMap) -> None:
    verdict = region.query(defence="vibe:winner", attack="badnets", poison_rate=0.1)
    assert verdict.status == "defended"
    assert set(verdict.evidence) == {f"winner badnets {seed}" for seed in range(3)}
    assert str(verdict) == str(
        region.query(defence="vibe", kappa=40, deploy="retrained", attack="badnets", poison_rate=0.1)
    )
    assert region.query(defence="vibe:default", attack="badnets", poison_rate=0.1).status == "kept_out"
    assert region.aliases["vibe:winner"] == {"defence": "vibe", "kappa": 40.0, "deploy": "retrained"}
    compared = region.compare("vibe:winner", "vibe:default", attack="badnets")
    assert compared.clean_accuracy.value == pytest.approx(0.055, abs=0.002)
    assert str(compared).startswith("vibe:winner against vibe:default: 1 cells")


def test_names_that_nothing_has(region: DefendedRegionMap) -> None:
    with pytest.raises(InputError, match=r"unknown named setting: vibe:winer .*did you mean vibe:winner\?"):
        region.query(defence="vibe:winer")


def test_one_name_of_two_settings_is_refused() -> None:
    other = study().assign(source="b")
    other.loc[other["alias"] == "vibe:winner", "defence.kappa"] = 20.0
    both = DefendedRegionMap.from_layers({"a": study(), "b": other})
    with pytest.raises(InputError, match="vibe:winner is the name of 2 different settings"):
        both.query(defence="vibe:winner")


def test_settings_that_were_tried_against_one_attack_are_not_the_most_robust(region: DefendedRegionMap) -> None:
    table = region.best(model="small_cnn", data="npz:/somewhere/else/mine.npz")
    assert table["alias"].tolist()[:2] == ["vibe:winner", ""]
    assert table["defended"].tolist()[:2] == [2, 1]
    assert table["cells"].tolist()[:2] == [3, 1]
    assert table["seconds"].tolist()[:2] == [24.0, 24.0]


def test_three_sentences_with_counts_by_the_map_s_verdicts(region: DefendedRegionMap) -> None:
    found = region.most_robust(defence="vibe")
    assert (found.name, found.settings) == ("vibe:winner", {"kappa": 40.0, "deploy": "retrained"})
    assert (found.defended, list(found.failed), found.held_out) == (["badnets", "blended"], ["sig"], ["sig"])
    assert (len(found.held), found.undefended, found.seconds, found.plain_seconds) == (3, 3, 24.0, 4.0)
    identity, cost, failures = str(found).splitlines()
    assert identity == (
        "The most robust configuration is vibe:winner (deploy=retrained, kappa=40): defended against 2 of 3 attacks; "
        "without a defence 3 of 3 take hold; held-out: 0 of 1."
    )
    assert cost.startswith("It costs 0.5 points of clean accuracy, ")
    assert cost.endswith("and takes 24.0 seconds a training instead of 4.0.")
    assert failures.startswith("It fails against sig (the backdoor takes hold, ")


def test_a_named_setting_and_one_that_holds_everywhere(region: DefendedRegionMap) -> None:
    assert region.most_robust(defence="vibe:default").defended == []
    assert "kept out, but at 6" in region.most_robust(defence="vibe:default").failures
    assert region.most_robust(defence="vibe", attack="badnets").failures == "It fails against none of them."
    with pytest.raises(InputError, match="nothing was measured there: kappa=11 was not measured"):
        region.most_robust(kappa=11)


def test_what_is_not_known_is_not_told() -> None:
    bare = study()[lambda frame: frame["defence.name"] != "none"].drop(columns=["seconds", "held_out", "alias"])
    found = DefendedRegionMap.from_frame(bare).most_robust(defence="vibe")
    assert "without a defence" not in found.identity
    assert "held-out" not in found.identity
    assert found.cost == "It costs an accuracy that nothing was measured to compare with."
    one = DefendedRegionMap.from_frame(study(seeds=1)).most_robust(defence="vibe:winner")
    assert "; more seeds would have to tell of badnets (one seed)" in one.failures


def test_poison_rates_are_threats_of_their_own() -> None:
    low = study().assign(
        poison_rate=lambda frame: frame["poison_rate"] / 2, run_id=lambda frame: frame["run_id"] + " low"
    )
    both = DefendedRegionMap.from_frame(pd.concat([study(), low], ignore_index=True))
    found = both.most_robust(defence="vibe:winner")
    assert list(found.verdicts) == [f"{attack} at {rate}" for attack in ATTACKS for rate in (0.05, 0.1)]
    assert "defended against 4 of 6 attacks and poison rates" in found.identity


@pytest.mark.parametrize("kind", [".csv", ".csv.gz", ".parquet"])
def test_a_table_in_a_file_answers_as_the_runs_did(tmp_path: Path, kind: str) -> None:
    if kind == ".parquet":
        pytest.importorskip("pyarrow")
    frame = study()
    names = {"alias": "tags.raybd.alias", "held_out": "tags.raybd.held_out", "clean_accuracy": "metrics.accuracy/clean"}
    names |= {"attack_success": "metrics.attack_success", "seconds": "metrics.seconds/trial", "run_id": "run_id"}
    names |= {"clean_count": "metrics.count/clean", "triggered_count": "metrics.count/triggered"}
    runs = frame.rename(columns=lambda name: names.get(name, f"params.{name}")).assign(status="FINISHED")
    assert trial_file.write(runs, tmp_path / f"s{kind}") == len(frame)
    again = DefendedRegionMap.from_file(tmp_path / f"s{kind}", min_probability=0.95)
    whole = DefendedRegionMap.from_frame(frame, min_probability=0.95)
    assert again.table.measured("data") == ["npz:mine.npz"]  # no folder of this machine
    assert again.axes == whole.axes
    assert str(again.most_robust(defence="vibe")) == str(whole.most_robust(defence="vibe"))
    pd.testing.assert_frame_equal(again.to_frame(), whole.to_frame(), rtol=1e-4, atol=1e-4, check_dtype=False)


def test_files_that_are_no_tables_of_trials(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a file named NAME\.csv"):
        DefendedRegionMap.from_file(tmp_path / "s.json")
    with pytest.raises(InputError, match="cannot be read"):
        DefendedRegionMap.from_file(tmp_path / "s.csv")
    (tmp_path / "s.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="it has no column attack.name, poison_rate"):
        DefendedRegionMap.from_file(tmp_path / "s.csv")


def test_seconds_count_what_others_spent_on_a_shared_encoder() -> None:
    runs = pd.DataFrame(
        {
            "run_id": ["a", "b", "c"],
            "metrics.seconds/trial": [5.0, 7.0, None],
            "metrics.defence/seconds": [12.0, None, None],
            "params.attack.name": "badnets",
        }
    )
    assert canonical_frame(runs)["seconds"].tolist()[:2] == [12.0, 7.0]
    assert np.isnan(canonical_frame(runs)["seconds"][2])
