"""Names of classes: in the place of numbers wherever a class is given, kept in records, shown to people."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import raybd.data
from analysis import DefendedRegionMap
from analysis.records import canonical_frame
from analysis.values import ClassNumber, format_value
from raybd.attacks import BadNets, Multi, parse
from raybd.attacks.placed import Placed
from raybd.attacks.tact import TaCT
from raybd.command_line.command import main
from raybd.command_line.curve_grid import expand_curves
from raybd.command_line.curve_options import CurveAxes, CurveOptions
from raybd.command_line.search_grid import search_cases
from raybd.command_line.search_options import SearchOptions
from raybd.data.class_names import have_names, named, number_of
from raybd.errors import InputError
from raybd.tracking import load_runs
from raybd.trials.config import TrialConfig
from raybd.trials.records import Record
from raybd.trials.run import run_trial
from raybd.trials.validate import prepare
from raybd.types import Data
from sweeps.ib import PRESETS, summarise

ANIMALS = ("cat", "bird", "dog", "10")
SMALL = "--epochs 1 --widths 0.25 --weight-decays 5e-4 --poison-rates 0 0.1 --seeds 1".split()
SMALL += "--noise 0 --metrics stealth --figures none --inline".split()


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory, digits: Data) -> str:
    """The digits 0 to 3 under names of animals, one of which looks like a number."""
    path = tmp_path_factory.mktemp("animals") / "animals.npz"
    arrays = {}
    for split, images in (("train", digits.train), ("test", digits.test)):
        kept = images.take((images.y < 4).nonzero()[:, 0])
        arrays |= {f"x_{split}": kept.x.numpy(), f"y_{split}": kept.y.numpy()}
    np.savez(path, class_names=np.array(ANIMALS), **arrays)
    return f"npz:{path}"


def planned(data: str, **settings: object) -> TrialConfig:
    config = TrialConfig(data=data, **settings)  # type: ignore[arg-type]
    return prepare([config])[0][0]


@pytest.mark.parametrize(
    ("by_name", "by_number"),
    [
        ("badnets:target=bird", "badnets:target=1"),
        ('badnets:target="10"', "badnets:target=3"),
        ("tact:source_classes=[cat,dog],target=bird", "tact:source_classes=[0,2],target=1"),
        (
            'tact:source_classes=["cat"],cover_classes=[3],target=dog',
            "tact:source_classes=[0],cover_classes=[3],target=2",
        ),
        (
            'multi:attacks=["badnets","tact:source_classes=[cat]"],targets=[bird,dog]',
            'multi:attacks=["badnets","tact:source_classes=[0]"],targets=[1,2]',
        ),
        ("placed:trigger=badnets,target=dog", "placed:trigger=badnets,target=2"),
    ],
)
def test_a_trial_by_name_is_the_trial_by_number(animals: str, by_name: str, by_number: str) -> None:
    named_one, numbered = (planned(animals, attack=parse(text)) for text in (by_name, by_number))
    assert named_one == numbered
    assert named_one.key == numbered.key
    assert "bird" not in json.dumps(named_one.to_dict())


def test_names_within_an_attack_around_another_are_numbers_too() -> None:
    around = Placed(trigger="tact:source_classes=[cat],target=dog", target="bird")  # type: ignore[arg-type]
    known = around.with_class_numbers(ANIMALS)
    assert (known.trigger, known.target) == ("tact:target=2,source_classes=[0]", 1)
    both = Multi(attacks=("badnets", "blended"), targets=("dog", "cat"))  # type: ignore[arg-type]
    assert [member.attack.target for member in both.with_class_numbers(ANIMALS).members()] == [2, 0]
    plain = TaCT(source_classes=(0,))
    assert plain.with_class_numbers(ANIMALS) is plain


def test_a_number_is_a_number_and_a_quoted_one_a_name() -> None:
    assert number_of(2, ANIMALS) == 2
    assert number_of('"10"', ANIMALS) == number_of("10", ANIMALS) == 3
    assert number_of("7", tuple("0123456789")) == 7
    assert (named(1, ANIMALS), named(9, ANIMALS), named(3, tuple("0123"))) == ("1 (bird)", "9", "3")
    assert have_names(ANIMALS)
    assert not have_names(tuple("0123"))


def test_every_unknown_name_is_told_with_the_nearest(animals: str) -> None:
    attacks = map(parse, ("badnets:target=brd", "tact:source_classes=[ct,hen]"))
    configs = [TrialConfig(data=animals, attack=attack) for attack in attacks]
    with pytest.raises(InputError) as refused:
        prepare(configs)
    assert refused.value.problems == [
        "target: unknown class: brd (known: 10, bird, cat, dog; did you mean bird?)",
        "source_classes: unknown class: ct, hen (known: 10, bird, cat, dog; did you mean cat?)",
    ]
    many = [f"class {number}" for number in range(100)]
    with pytest.raises(InputError, match=r"nearest of 100 known: .*; did you mean class 17\?"):
        number_of("clas 17", many)


def test_a_name_that_was_left_is_no_class(digits: Data) -> None:
    (problem,) = BadNets(target="bird").check((1, 8, 8), 10)  # type: ignore[arg-type]
    assert "'bird' is a name" in problem
    with pytest.raises(InputError, match="unknown class: bird"):
        run_trial(TrialConfig(attack=BadNets(target="bird")), digits)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"target cannot be 1.5 \(allowed: a whole number or a word\)"):
        parse("badnets:target=1.5")


def test_parts_are_named_too(animals: str) -> None:
    by_name, by_number = (raybd.data.load(f"{animals}[{part}]") for part in ("dog, bird;100", "2,1;100"))
    assert by_name.name == by_number.name == f"{animals}[2,1;100]"
    assert by_name.classes == ("dog", "bird")
    assert by_name.fingerprint == by_number.fingerprint
    assert raybd.data.load(f'{animals}["10",cat]').classes == ("10", "cat")
    assert planned(f"{animals}[dog,bird]", attack=parse("badnets:target=bird")) == planned(
        f"{animals}[2,1]", attack=BadNets(target=1)
    )


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("bird,fish", "unknown class: fish (known: 10, bird, cat, dog)"),
        ("bird,1", "names class 1 twice"),
        ("bird,bird", "names class bird twice"),
        ("bird", "is of one class"),
        ("bird,,cat", "a subset is written"),
    ],
)
def test_parts_of_no_such_class(animals: str, part: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        raybd.data.load(f"{animals}[{part}]")
    assert any(said in problem for problem in refused.value.problems)


def test_pairs_of_a_sweep_of_learning_curves_by_name(animals: str) -> None:
    def sets(*pairs: str) -> list[str]:
        options = CurveOptions(curves=CurveAxes(pairs=pairs, models=("svm",), Cs=(1.0,)))
        trials = expand_curves(options.replace(data=animals, seeds=1, poison_rates=(0.1,)))
        return list(dict.fromkeys(trial.data for trial in trials))

    assert sets("bird-dog", "2-0", "10-cat") == [f"{animals}[1,2]", f"{animals}[2,0]", f"{animals}[10,0]"]
    with pytest.raises(InputError, match=r"unknown class: hen, fox"):
        sets("hen-fox")


def test_the_canary_s_target_is_not_the_attacker_s(animals: str) -> None:
    options = SearchOptions().replace(data=animals, target="cat", attacks=("badnets",), objective="canary")
    targets = {case.attack.targets for case in search_cases(options)}  # type: ignore[attr-defined]
    assert targets == {(0, 1)}


def test_both_keys_of_an_npz_that_differ_are_refused(tmp_path: Path, animals: str) -> None:
    with np.load(animals.removeprefix("npz:")) as arrays:
        np.savez(tmp_path / "two.npz", classes=np.array(list("abcd")), **arrays)
    with pytest.raises(InputError, match="classes and class_names name the classes differently"):
        raybd.data.load(f"npz:{tmp_path}/two.npz")


def test_a_sweep_keeps_and_shows_the_names(tmp_path: Path, animals: str, capsys: pytest.CaptureFixture[str]) -> None:
    store, places = f"sqlite:///{tmp_path}/m.db", ["--results", str(tmp_path / "r"), "--data", animals]
    args = [*SMALL, *places, "--tracking-uri", store, "--attacks", "badnets", "badnets:target=dog"]
    assert main(PRESETS, summarise, [*args, "--target", "bird", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "axis attack.target (2): 1 (bird), 2 (dog)" in said
    assert "classes: 0 cat, 1 bird, 2 dog, 3 10" in said
    assert main(PRESETS, summarise, [*args, "--target", "bird", "--defences", "spectral"]) == 0
    said = capsys.readouterr().out
    assert "badnets  1 (bird)" in said
    assert main(PRESETS, summarise, [*args, "--target", "1", "--defences", "spectral"]) == 0
    assert "4 trials have finished, 0 to run" in capsys.readouterr().out

    runs = load_runs("ib", store)
    assert {json.loads(text) == list(ANIMALS) for text in runs["tags.raybd.classes"]} == {True}
    assert set(runs["tags.raybd.target"].dropna()) == {"1 (bird)", "2 (dog)"}
    assert set(runs["params.attack.target"]) == {"1", "2"}
    records = [json.loads(path.read_text()) for path in (tmp_path / "r").glob("ib/trials/*/trial.json")]
    assert {tuple(record["classes"]) for record in records} == {ANIMALS}
    assert any("is not the target, 2 (dog), predicted as it" in Record(**record).text for record in records)
    old = {name: value for name, value in records[0].items() if name != "classes"}
    assert Record(**old) == replace(Record(**records[0]), classes=[])  # a record without names still reads

    found = DefendedRegionMap.from_frame(canonical_frame(runs))
    asked = [found.query(attack="badnets", poison_rate=0.1, target=target) for target in ("dog", 2)]
    assert asked[0] == asked[1]
    assert "target=2 (dog)" in str(asked[0])
    with pytest.raises(InputError, match="unknown class: hen"):
        found.query(attack="badnets", poison_rate=0.1, target="hen")
    unnamed = DefendedRegionMap.from_frame(canonical_frame(runs.drop(columns="tags.raybd.classes")))
    assert "target=2\n" in str(unnamed.query(attack="badnets", poison_rate=0.1, target=2))


def test_names_are_shown_where_all_data_sets_agree_on_them() -> None:
    rows = [
        {"attack.name": "badnets", "attack.target": target, "poison_rate": 0.1, "seed": 0, "fingerprint": data}
        for data in ("a", "b")
        for target in (0, 1)
    ]

    def targets(*names: str | None) -> list[str]:
        frame = canonical_frame_of(rows, names)
        return [format_value(value) for value in DefendedRegionMap.from_frame(frame).axes["target"]]

    cats, rooms = json.dumps(["cat", "bird"]), json.dumps(["hall", "room"])
    assert targets(cats, cats, cats, cats) == ["0 (cat)", "1 (bird)"]
    assert targets(cats, None, cats, None) == ["0 (cat)", "1 (bird)"]  # trials that died before they could say
    assert targets(cats, cats, None, None) == ["0", "1"]  # of the other data set nothing is known
    assert targets(cats, cats, rooms, rooms) == ["0", "1"]
    assert targets("no list", "no list", "no list", "no list") == ["0", "1"]
    assert ClassNumber(2, "bird") == 2


def canonical_frame_of(rows: list[dict[str, object]], names: tuple[str | None, ...]) -> "object":
    import pandas as pd

    rates = {"clean_accuracy": 0.9, "attack_success": 0.5}
    return pd.DataFrame([row | rates | {"class_names": name} for row, name in zip(rows, names, strict=True)])
