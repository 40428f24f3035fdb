"""The tables of information and smoothing, on runs made by hand."""

import pandas as pd
import pytest

from analysis.attack_table import attack_table
from analysis.attacks import attack_names
from analysis.grouping import group_runs
from analysis.signatures import signature_table, smoothing_gaps, smoothing_table
from raybd.metrics.smoothing.conclusion import judge_smoothing


def run(rate: float, seed: int, **metrics: float) -> dict[str, object]:
    return {
        "status": "FINISHED",
        "params.attack.name": "badnets",
        "params.poison_rate": str(rate),
        "params.seed": str(seed),
        **{f"metrics.{name}": value for name, value in metrics.items()},
    }


def informed(seed: int, signature: float, **more: float) -> dict[str, object]:
    told = {
        "mi/signature": signature,
        "mi/xt/fresh_train": 4.16,
        "mi/xt/fresh_train/saturated": 1.0,
        "mi/st/fresh_train": 1.5,
        "mi/st/fresh_train/permuted": 0.25,
    }
    return run(0.1, seed, **{**told, **more})


def cells(table: str, line: int) -> list[str]:
    return [cell for cell in table.splitlines()[line].split("  ") if cell.strip()]


def row(table: str, line: int = 1) -> dict[str, str]:
    return dict(zip(map(str.strip, cells(table, 0)), map(str.strip, cells(table, line)), strict=True))


def test_signatures_by_hand() -> None:
    table = signature_table(pd.DataFrame([informed(0, -0.2), informed(1, -0.4), run(0.0, 0, attack_success=0.0)]))
    found = row(table)
    assert found["attack"] == "badnets"
    assert found["seeds"] == "2"
    assert found["signature"] == "-0.30 ± 0.14"
    assert found["I(S;T)"] == "1.50 ± 0.00 (0.25)"
    assert len(table.splitlines()) == 2


def test_a_value_at_its_ceiling_is_a_bound() -> None:
    assert row(signature_table(pd.DataFrame([informed(0, 0.0)])))["I(X;T)"] == ">= 4.16"


def test_a_lower_bound_at_its_ceiling_is_marked() -> None:
    """The flag stands beside both bounds, and the upper one is none of it."""
    bounds = {"mi/ty/fresh_train/lower": 5.48, "mi/ty/fresh_train/upper": 23.0, "mi/ty/fresh_train/saturated": 1.0}
    found = row(signature_table(pd.DataFrame([informed(0, 0.0, **bounds)])))
    assert (found["I(T;Y) from"], found["to"]) == (">= 5.48", "23.00")


def test_what_rests_on_values_at_their_ceiling_cannot_be_told() -> None:
    assert (
        row(signature_table(pd.DataFrame([informed(0, 0.0, **{"stealth/s1/saturated": 1.0})])))["S1"]
        == "cannot be told"
    )


def test_a_signature_says_where_it_was_read_and_what_its_null_is() -> None:
    parts = [{"/s": 4.0, "/null": 0.05, "/saturated": 0.0}, {"/s": 4.0, "/null": 0.07, "/saturated": 0.0}]
    runs = [informed(k, -0.2, **{f"mi/signature{end}": v for end, v in part.items()}) for k, part in enumerate(parts)]
    assert row(signature_table(pd.DataFrame(runs)))["signature"] == "-0.20 ± 0.00 (0.06) at s 4"
    runs[1]["metrics.mi/signature/s"] = 12.0
    assert row(signature_table(pd.DataFrame(runs)))["signature"] == "-0.20 ± 0.00 (0.06) at s 4 to 12"


def test_a_seed_that_cannot_be_told_makes_no_bound_of_the_others() -> None:
    told, untold = informed(0, -0.2, **{"mi/signature/saturated": 0.0}), informed(1, float("nan"))
    untold["metrics.mi/signature/saturated"] = 1.0
    assert row(signature_table(pd.DataFrame([told, untold])))["signature"] == "-0.20 (1 of 2)"
    assert row(signature_table(pd.DataFrame([untold])))["signature"] == "cannot be told"


def test_a_mean_says_of_how_many_seeds_it_is() -> None:
    runs = pd.DataFrame([informed(seed, -0.5) for seed in range(3)])
    runs.loc[1:, "metrics.mi/st/fresh_train"] = float("nan")
    assert row(signature_table(runs))["I(S;T)"] == "1.50 (1 of 3) (0.25)"


def test_information_on_labels_stands_beside_both_of_its_nulls() -> None:
    more = {"stealth/semantics": 1.96, "stealth/semantics/permuted": 0.01, "stealth/semantics/null": 2.13}
    table = signature_table(pd.DataFrame([informed(0, -0.2, **more), informed(1, -0.2)]))
    assert row(table)["I(S;T|B=1)"] == "1.96 (1 of 2) (0.01; 2.13)"


def varied(**params: object) -> dict[str, object]:
    return {f"params.{name.replace('__', '.')}": str(value) for name, value in params.items()}


VARIATIONS = [
    ("attack", {}, {"attack__size": 3}),  # runs of before the setting was one, and after
    ("weight_decay", {"train__weight_decay": 0.0005}, {"train__weight_decay": 0.05}),
    ("width", {"model__name": "small_cnn", "model__width": 0.5}, {"model__name": "small_cnn", "model__width": 1.0}),
    ("data", {"data": "digits", "fingerprint": "a"}, {"data": "mnist", "fingerprint": "b"}),
    ("defence", {"defence__name": "none"}, {"defence__name": "vibe"}),
    ("noise", {"noise": 0.1}, {"noise": 0.4}),
]


@pytest.mark.parametrize(("column", "first", "second"), VARIATIONS, ids=[name for name, *_ in VARIATIONS])
def test_no_table_pools_over_a_parameter(column: str, first: dict[str, object], second: dict[str, object]) -> None:
    runs = []
    for seed in range(2):
        for number, params in enumerate((first, second)):
            measured = {"stealth/s1": 1.0 + number, "smoothness/gap/triggered/sigma_0.5": 1.0 + number + seed / 10}
            rates = {"accuracy/clean": 0.9, "accuracy/robust": 0.0, "attack_success": 0.1 + number / 2}
            runs += [run(rate, seed, **measured, **rates) | varied(**params) for rate in (0.0, 0.1)]
    frame = pd.DataFrame(runs)
    assert [group.seeds for group in group_runs(frame)] == [2] * 4
    for table in (signature_table(frame), smoothing_table(frame, judge_smoothing)):
        heads, *lines = table.splitlines()
        assert column in heads
        assert len(lines) == 2
    assert [row(signature_table(frame), line)["S1"] for line in (1, 2)] == ["1.00 ± 0.00", "2.00 ± 0.00"]
    lines = attack_table(frame).splitlines()[2:]
    assert [line.split("|")[-4].strip() for line in lines] == ["10.0 ± 0.0", "60.0 ± 0.0"]
    assert [line.split("|")[-2].strip() for line in lines] == ["10.0 ± 0.0", "60.0 ± 0.0"]  # each its own twin


def test_runs_without_such_metrics_have_no_tables() -> None:
    runs = pd.DataFrame([run(0.1, 0, attack_success=1.0)])
    assert signature_table(runs) == ""
    assert smoothing_table(runs, judge_smoothing) == ""


def smoothed(rate: float, seed: int, gap: float) -> dict[str, object]:
    return run(rate, seed, attack_success=0.9, **{"smoothness/gap/triggered/sigma_0.5": gap})


def test_smoothing_by_hand() -> None:
    runs = pd.DataFrame(
        [smoothed(0.1, seed, gap) for seed, gap in enumerate((1.0, 1.2, 0.8, 1.1, 0.9))]
        + [smoothed(0.0, seed, -0.5) for seed in range(5)]
    )
    table = smoothing_table(runs, judge_smoothing)
    # mean 1, sd 0.158, 5 seeds: t(0.975, 4) = 2.776, so +-0.196
    assert "1.000 [0.804, 1.196]" in table
    assert "-0.500" in table
    assert "not shown" in table  # no control pattern is measured
    assert len(smoothing_gaps(runs, "0.5")) == 5


def test_smoothing_is_shown_only_above_its_controls() -> None:
    def poisoned(seed: int, patch: float) -> dict[str, object]:
        more = {"random_patch": patch, "moved_patch": 0.1, "twin_triggered": -0.2}
        return run(
            0.1,
            seed,
            attack_success=0.9,
            **{
                f"smoothness/gap/{name}/sigma_0.5": value + seed / 100
                for name, value in {"triggered": 1.0, **more}.items()
            },
        )

    above = smoothing_table(pd.DataFrame([poisoned(seed, 0.3) for seed in range(5)]), judge_smoothing)
    assert "smoothing shown" in above
    assert "random_patch 0.320" in above
    below = smoothing_table(pd.DataFrame([poisoned(seed, 1.3) for seed in range(5)]), judge_smoothing)
    assert "not shown" in below


def test_settings_that_vary_are_part_of_an_attack_s_name() -> None:
    runs = [run(0.1, 0) | {"params.attack.alpha": alpha, "params.attack.grey": "False"} for alpha in ("0.1", "0.2")]
    assert attack_names(pd.DataFrame(runs)).tolist() == ["badnets alpha=0.1", "badnets alpha=0.2"]


def test_failed_runs_and_missing_twins() -> None:
    runs = pd.DataFrame([smoothed(0.1, 0, 1.0), smoothed(0.1, 1, 1.0), smoothed(0.0, 0, 0.0)])
    runs.loc[1, "status"] = "FAILED"
    assert "1.000 [-inf, inf]" in smoothing_table(runs, judge_smoothing)
    alone = smoothing_table(pd.DataFrame([smoothed(0.1, 0, 1.0), smoothed(0.0, 1, 0.0)]), judge_smoothing)
    assert " -  " in alone  # the twin is of another seed


@pytest.mark.parametrize("seeds", [1, 3])
def test_attack_table(seeds: int) -> None:
    shares = {"accuracy/clean": 0.99, "attack_success": 0.5, "accuracy/robust": 0.25}
    runs = pd.DataFrame([run(0.1, seed, **shares) for seed in range(seeds)] + [run(0.0, 0, attack_success=0.01)])
    spread = "" if seeds == 1 else " ± 0.0"
    expected = f"| badnets | 0.1 | {seeds} | 99.0{spread} | 50.0{spread} | 25.0{spread} | 1.0 |"
    assert attack_table(runs).splitlines()[-1] == expected
    assert len(attack_table(runs).splitlines()) == 3
