"""The tables of information and smoothing, on runs made by hand."""

import pandas as pd
import pytest

from analysis.attacks import attack_names, attack_table
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


def informed(seed: int, backdoor: float) -> dict[str, object]:
    told = {
        "mi/xt/backdoor": backdoor,
        "mi/xt/clean_1": 2.0,
        "mi/xt/clean_2": 3.0,
        "mi/xt/clean_1/lower": 99.0,  # no class of its own
        "mi/control/xt/backdoor": 2.0,
        "mi/control/xt/clean_1": 2.0,
        "mi/ty/backdoor": 5.0,
        "mi/ty/clean_1": 4.0,
        "mi/st/backdoor": 1.5,
        "stealth/s1": 3.0,
        "stealth/s1/null": 0.25,
    }
    return run(0.1, seed, **told)


def cells(table: str, line: int) -> list[str]:
    return [cell for cell in table.splitlines()[line].split("  ") if cell.strip()]


def test_signatures_by_hand() -> None:
    table = signature_table(pd.DataFrame([informed(0, 4.0), informed(1, 5.0), run(0.0, 0, attack_success=0.0)]))
    found = dict(zip(map(str.strip, cells(table, 0)), map(str.strip, cells(table, 1)), strict=True))
    assert found["attack"] == "badnets"
    assert found["seeds"] == "2"
    assert found["I(X;T) excess"] == "2.00 ± 0.71 (0.00)"  # 4 and 5 less (2 + 3) / 2
    assert found["I(T;Y) excess"] == "1.00 ± 0.00 (nan)"
    assert found["I(S;T)"] == "1.50 ± 0.00"
    assert found["S1"] == "3.00 ± 0.00 (0.25)"
    assert len(table.splitlines()) == 2


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
