"""What a map is given and cannot be: refused in one sentence that says what came and what is allowed."""

import math
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import DefendedRegionMap
from analysis.decision import DecisionRule
from analysis.plots import plot_map
from raybd.cli import main
from raybd.errors import InputError
from tests.test_map_queries import rates, region_map, three, twins

ROWS = [*twins(), *three(0.95), *three(0.01, poison_rate=0.01)]


class Anything:
    """A value of no kind that a table or a threshold has; its name in a test's id is the same in every process."""

    def __repr__(self) -> str:
        return "Anything()"


ODD: list[Any] = [
    None,
    5,
    -1.5,
    math.nan,
    math.inf,
    "high",
    b"x",
    [1],
    {"a": 1},
    (1, [2]),
    np.array([1, 2]),
    Anything(),
]
ODD += [True, 10**400, pd.NA, pd.Timestamp(2026, 1, 1), 1 + 2j, {1}, ""]


def table() -> pd.DataFrame:
    return pd.DataFrame(ROWS).assign(run_id=[f"r{i}" for i in range(len(ROWS))], data="digits")


def changed(**columns: Any) -> pd.DataFrame:
    """The table with the value at row 4 replaced in each of `columns`; dots in names as double underscores."""
    frame = table().astype(object)
    for name, value in columns.items():
        full = name.replace("__", ".")
        column = frame[full].tolist() if full in frame else [None] * len(frame)
        column[4] = value
        frame[full] = pd.Series(column, dtype=object)
    return frame


SAID = {
    "attack success in percent": (
        changed(attack_success=90),
        "attack_success must be .*, got 90 in row 4: in percent?",
    ),
    "negative attack success": (changed(attack_success=-1), r"a number in \[0, 1\], got -1 in row 4$"),
    "infinite accuracy": (changed(clean_accuracy=math.inf), "clean_accuracy must be .*, got inf in row 4"),
    "accuracy as text": (changed(clean_accuracy="0.9"), "clean_accuracy must be .*, got '0.9' in row 4"),
    "accuracy as truth value": (changed(clean_accuracy=True), "clean_accuracy must be .*, got True in row 4"),
    "negative rate": (changed(poison_rate=-1), "poison_rate must be .*, got -1 in row 4"),
    "rate of 5": (changed(poison_rate=5), "poison_rate must be .*, got 5 in row 4: in percent?"),
    "rate in a word": (changed(poison_rate="high"), "poison_rate must be .*, got 'high' in row 4"),
    "seed NaN": (changed(seed=math.nan), "seed must be a whole number, got nan in row 4"),
    "seed in words": (table().assign(seed="one"), "got 'one' in row 0, 'one' in row 1, 'one' in row 2 and 6 more"),
    "half a seed": (changed(seed=0.5), "seed must be a whole number, got 0.5"),
    "a vast seed": (changed(seed=10**400), "seed must be a whole number"),
    "attack without a name": (changed(attack__name=5), "attack.name must be a text, got 5 in row 4"),
    "status": (changed(status="DONE"), "status must be FINISHED, FAILED, .*, got 'DONE'"),
    "count": (changed(triggered_count=-3), "triggered_count must be a number of images, from 0, got -3"),
    "key": (changed(key=[1]), r"key must be a text or a whole number, got \[1\]"),
    "times": (
        table().assign(start_time=[1, "b", pd.Timestamp(0)] * 3),
        "got numbers .*, texts .*, dates without a time",
    ),
    "zones": (table().assign(start_time=[datetime(2026, 1, 1), datetime.now(UTC), None] * 3), "dates with a time zone"),
    "words as times": (table().assign(start_time="noon"), "start_time must be all dates"),
    "several at once": (changed(seed=None, poison_rate=2), "(?s)poison_rate must.*seed must"),
    "no table": (None, "trials come as a pandas DataFrame, a row each, got NoneType"),
    "a list": (ROWS, "got list"),
    "numbers as names": (table().rename(columns={"data": 5}), "names of columns are texts, got 5"),
    "levels of names": (pd.concat({"a": table()}, axis=1), "names of columns are texts"),
    "columns twice": (pd.concat([table(), table()[["seed", "data"]]], axis=1), "given twice: 'seed', 'data'"),
    "columns missing": (table()[["seed"]], "missing columns: attack.name, poison_rate"),
    "no row": (table()[:0], "no trial"),
}


@pytest.mark.parametrize("case", SAID)
def test_a_frame_that_cannot_be(case: str) -> None:
    frame, said = SAID[case]
    with pytest.raises(InputError, match=said):
        DefendedRegionMap.from_frame(frame)
    if case != "no row":
        with pytest.raises(InputError):
            DefendedRegionMap.from_layers({"ours": frame, "theirs": table()})


def test_what_is_not_measured_is_no_fault() -> None:
    frame = changed(clean_accuracy=None, attack_success=math.nan, clean_count=pd.NA, error=5, key=None, status=None)
    found = DefendedRegionMap.from_frame(frame).query(poison_rate=0.1)
    assert found.failures == ("r4: finished without a clean accuracy or an attack success",)


def test_dates_as_texts_tell_the_latest() -> None:
    again = table()[3:6].assign(attack_success=0.0, start_time="2026-01-10")
    frame = pd.concat([again, table().assign(start_time="2026-01-09T23:59:59")])
    assert DefendedRegionMap.from_frame(frame).query(poison_rate=0.1).status == "defended"


@pytest.mark.parametrize("value", ODD, ids=repr)
@pytest.mark.parametrize("name", ["model.width", "data", "fingerprint", "defence.name", "source", "error", "a.content"])
def test_odd_values_of_other_columns(name: str, value: Any) -> None:
    """Answered or refused, and what is answered is not moved by them."""
    try:
        found = DefendedRegionMap.from_frame(changed(**{name: value}))
    except InputError:
        return
    assert {cell.verdict.status for cell in found.cells if not cell.poisoned} == {"defended"}
    found.to_frame()
    found.boundary()
    found.robust()
    found.best()


RULES = [
    *({name: value} for name in ("max_attack_success", "min_probability", "reference") for value in ODD),
    *({"seed_spread": value} for value in ODD if value is not None),
    {"bogus": 1},
    {"min_probability": 0.5},
]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_thresholds_of_another_kind(rule: dict[str, Any]) -> None:
    for call in (DecisionRule, MAP.with_rule, lambda **options: DefendedRegionMap.from_frame(table(), **options)):
        with pytest.raises(InputError, match=r"must be|unknown option of a map: bogus \(known: accuracy_spread, "):
            call(**rule)


def test_an_unknown_threshold_is_told_before_anything_is_read() -> None:
    with pytest.raises(InputError, match="unknown option"):
        DefendedRegionMap.from_mlflow("ib", "sqlite:////nowhere.db", max_asr=0.1)


MAP = region_map(ROWS, rates(2, 0.0, 0.5, 0.9), defended := three(0.01, defence__name="vibe"))
CALLS: list[Callable[[Any], object]] = [
    lambda odd: MAP.query(attack=odd),
    lambda odd: MAP.query(poison_rate=odd, interpolate=True),
    lambda odd: MAP.query(width=odd, interpolate=True),
    lambda odd: MAP.query(width=odd, poison_rate=0.02, attack="badnets", defence=None, interpolate=True),
    MAP.query,
    lambda odd: MAP.query(depth=odd),
    lambda odd: MAP.slice(odd, "poison_rate"),
    lambda odd: MAP.slice("width", odd, attack=odd),
    lambda odd: MAP.slice("width", "poison_rate", attack=odd),
    lambda odd: MAP.slice("width", "poison_rate").plot(odd),
    MAP.boundary,
    lambda odd: MAP.boundary(interpolate=odd),
    lambda odd: MAP.boundary(width=odd, interpolate=True),
    lambda odd: MAP.boundary("width", poison_rate=odd),
    MAP.resistance,
    lambda odd: MAP.resistance("badnets", model=odd),
    MAP.robust,
    lambda odd: MAP.best(width=odd),
    lambda odd: MAP.compare(odd, "vibe"),
    lambda odd: MAP.compare({"width": 2}, {"width": odd}),
    lambda odd: MAP.compare({odd: 2} if isinstance(odd, str | int) else {}, "vibe"),
    lambda odd: MAP.to_parquet(odd) if not isinstance(odd, str) else None,
    plot_map,
    lambda odd: plot_map(MAP, odd) if not isinstance(odd, int) else None,
    DefendedRegionMap,
    DefendedRegionMap.from_layers,
    lambda odd: DefendedRegionMap.from_layers({"a": odd}),
    DefendedRegionMap.from_backdoorbench,
    lambda odd: DefendedRegionMap.from_mlflow(odd, "sqlite:////nowhere.db"),
    lambda odd: DefendedRegionMap.from_mlflow("ib", odd) if not isinstance(odd, str | None) else None,
    lambda odd: DefendedRegionMap.from_mlflow([odd], "sqlite:////nowhere.db"),
]


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_odd_arguments_are_answered_or_refused(number: int) -> None:
    """Of 31 calls with 19 odd values each, none raises what is no InputError."""
    for odd in ODD:
        with suppress(InputError):
            CALLS[number](odd)


@pytest.mark.parametrize("rate", [-1, 5, 90, "high", math.nan, math.inf, True])
def test_a_question_at_no_rate_at_all(rate: Any) -> None:
    if isinstance(rate, float) and math.isnan(rate):
        assert MAP.query(poison_rate=rate).status == "unmeasured"  # NaN stands for trials without one
        return
    with pytest.raises(InputError, match=r"poison_rate must be a number in \[0, 1\], got"):
        MAP.query(poison_rate=rate)


def test_truth_values_are_no_numbers_and_near_numbers_are_one() -> None:
    def at(*values: Any) -> DefendedRegionMap:
        return region_map(*(three(0.1 * i, model__x=value) for i, value in enumerate(values)))

    for values in ([True, 1, 0, False], [1, True, False, 0]):
        found = at(*values)
        assert len(found.cells) == 4
        assert [found.query(x=value).attack_success.value for value in values] == pytest.approx([0, 0.1, 0.2, 0.3])
    chain = at(1.0, 1 + 0.8e-9, 1 + 1.6e-9)  # the last is near the second alone, which is the first
    assert [len(cell.seeds) for cell in chain.cells] == [3, 3]


LINES = {
    "ratio in percent": ("C,R,A,none,10,0.9,0.2,0.7", r"poison_rate must be .*, got 10.0 in row 1: in percent\?"),
    "no attack success": ("C,R,A,none,0.1,0.9,inf,0.7", "attack_success must be"),
    "more than all": ("C,R,A,none,0.1,90,101,0.7", "attack_success must be .*, got 1.01"),
}


@pytest.mark.parametrize("case", LINES)
def test_a_leaderboard_that_cannot_be(case: str, tmp_path: Path) -> None:
    line, said = LINES[case]
    path = tmp_path / "results.csv"
    path.write_text(f"dataset,backbone,attack,defence,ratio,acc,asr,ra\nC,R,A,FT,0.1,0.9,0.2,0.7\n{line}\n")
    with pytest.raises(InputError, match=said):
        DefendedRegionMap.from_backdoorbench(path)


def test_a_leaderboard_with_gaps_in_its_names_is_read(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("dataset,backbone,attack,defence,ratio,acc,asr,ra\nC,,A,FT,0.1,0.9,0.2,0.7\nC,R,A,none,0.1,1,1,0\n")
    assert len(DefendedRegionMap.from_backdoorbench(path).cells) == 2


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["query", "poison_rate=high"], "error: poison_rate must be a number in [0, 1], got 'high'"),
        (["query", "poison_rate=90"], "got 90: in percent?"),
        (["query", "depth=1"], "error: unknown axis: depth"),
        (["show", "--max-attack-success", "90"], "error: max_attack_success must be in [0, 1], got 90"),
        (["show", "--min-probability", "nan"], "error: min_probability must be"),
    ],
)
def test_the_command_says_the_same(
    asked: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.records.load", lambda *_: table())
    assert main(["map", "ib", *asked]) == 2
    assert said in capsys.readouterr().err


def test_a_rule_is_changed_without_reading_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = region_map(ROWS, max_attack_success=0.2)
    monkeypatch.setattr("analysis.records.read", lambda _: pytest.fail("read again"))
    after = before.with_rule(max_attack_success=0.99)
    assert (before.query(poison_rate=0.1).status, after.query(poison_rate=0.1).status) == ("backdoored", "defended")
    assert (before.rule.max_attack_success, after.rule.max_attack_success) == (0.2, 0.99)
    assert after.with_rule(reference="twin").rule == DecisionRule(max_attack_success=0.99, reference="twin")
