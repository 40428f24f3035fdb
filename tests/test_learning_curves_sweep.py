"""The sweep of learning curves from options to tables, on digits and in this process; the metric of networks."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import DefendedRegionMap
from analysis.learning_curves import trial_table
from raybd.command_line.curve_grid import expand_curves
from raybd.command_line.curve_options import CurveOptions
from raybd.convex.region import region_width
from raybd.errors import InputError
from raybd.metrics.learning_curves import LearningCurves
from raybd.tracking import load_runs
from sweeps.learning_curves import PRESETS, run

SMALL = "--models svm ridge --Cs 0.01 0.1 1 --poison-rates 0.1 --seeds 3 --figures first_seed --inline"


def sweep(folder: Path, more: str = "", name: str = "lc") -> tuple[int, str]:
    uri = f"sqlite:///{folder}/m.db"
    status = run(f"{SMALL} --name {name} --results {folder}/results --tracking-uri {uri} {more}".split())
    return status, uri


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("lc")
    status, uri = sweep(folder)
    assert status == 0
    return folder, uri


def test_every_trial_is_there_with_its_numbers(done: tuple[Path, str]) -> None:
    table = trial_table(load_runs("lc", done[1], all_metrics=True))
    assert len(table) == 2 * 3 * 2 * 3  # learners, C, rates with the clean twin, seeds
    assert sorted(table["poison_rate"].unique()) == [0, 0.1]
    poisoned = table[table["poison_rate"] > 0]
    names = ("curve/slope", "curve/slope_legacy", "curve/theta", "curve/B/beta_0.1", "curve/K/beta_0.1", "curve/area")
    assert poisoned[list(names)].notna().to_numpy().all()
    assert table["accuracy/clean"].between(0.4, 1).all()
    for _, cell in poisoned.groupby(["model", "seed"]):
        assert cell.sort_values("C")["curve/slope"].is_monotonic_decreasing  # a larger C learns faster


def test_artifacts_of_a_trial_and_of_the_sweep(done: tuple[Path, str]) -> None:
    folder = done[0] / "results" / "lc"
    names = {p.name for p in (folder / "figures").glob("*.png")}
    assert {n.split("_")[0] for n in names} == {"curves", "paths", "slopes", "regions"}
    key = trial_table(load_runs("lc", done[1], all_metrics=True)).query("poison_rate > 0 and seed == 0")["key"].iloc[0]
    trial = folder / "trials" / str(key)
    assert {p.name for p in (trial / "figures").iterdir()} == {"examples.png", "learning_curve.png"}
    kept = np.load(trial / "arrays.npz")
    assert kept["curve/betas/1"].tolist() == [0, 0.01, 0.03, 0.1, 0.3, 1]
    assert len(kept["curve/contributions/1"]) == 26


def test_the_map_answers_for_learners(done: tuple[Path, str]) -> None:
    region = DefendedRegionMap.from_mlflow("lc", tracking_uri=done[1])
    assert region.axes["C"] == [0.01, 0.1, 1]
    assert set(region.axes["model"]) == {"svm", "ridge"}
    table = trial_table(load_runs("lc", done[1], all_metrics=True))
    cell = table.query("model == 'svm' and C == 0.1 and poison_rate == 0.1")
    verdict = region.query(model="svm", C=0.1, poison_rate=0.1)
    assert verdict.clean_accuracy.value == pytest.approx(cell["accuracy/clean"].mean())
    assert verdict.attack_success.value == pytest.approx(cell["attack_success"].mean())
    assert verdict.status in ("defended", "kept_out", "backdoored", "uncertain")
    assert region.query(model="ridge", C=50, poison_rate=0.1).status == "unmeasured"


def test_widths_are_those_of_the_trials(done: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    table = trial_table(load_runs("lc", done[1], all_metrics=True)).query("model == 'svm' and poison_rate == 0.1")
    means = table.groupby("C")[["accuracy/clean", "attack_success"]].mean()
    width = region_width(np.array([0.01, 0.1, 1]), *means.to_numpy().T, 101, max_attack_success=0.1)
    assert sweep(done[0])[0] == 0  # a second run of the same name has nothing to do, and says it all again
    said = capsys.readouterr().out
    assert "36 trials have finished, 0 to run" in said
    line = next(line for line in said.splitlines() if line.split()[3:4] == ["svm"])
    assert f" {width:.2f} [" in line


def test_compare_prints_differences_by_row(done: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    """A file made from the sweep's own trials, with one accuracy one test point off and one slope a half too large."""
    table = (
        trial_table(load_runs("lc", done[1], all_metrics=True))
        .query("model == 'ridge' and poison_rate == 0.1")
        .reset_index()
    )
    path = done[0] / "ridge_pair7-1_ttypebadnet_tsize2.csv"
    legacy = ("mean_absolute", "total_absolute", "mean_loss", "min_loss", "max_loss")
    with path.open("w") as file:
        out = csv.writer(file)
        head = "seed gamma c trigger_type trigger_size trigger_type clf_acc clfp_acc clfp_acc_on_backdoor clfp_acc_tr"
        influences = [f"{kind}_I_poison_train_triggered_test_clf" for kind in ("avg", "avg_abs", "norm")]
        out.writerow([*head.split(), *influences, "mean_loss", "min_loss", "max_loss"])
        for i, row in table.iterrows():
            success = row["attack_success"] + (1 / 101 if i == 0 else 0)
            slope = row["curve/slope_legacy"] * (1.5 if i == 1 else 1)
            shares = [row["accuracy/clean"], row["accuracy/clean"], success, row["accuracy/train"], slope]
            others = [row[f"curve/legacy/{name}"] for name in legacy]
            out.writerow([row["seed"], -1, row["C"], "badnet", "(2, 2)", "badnet", *shares, *others])
    assert sweep(done[0], f"--compare {path}")[0] == 0
    said = capsys.readouterr().out.splitlines()
    assert "9 of 9 rows were run (ridge, 7-1, rate 0.1)" in "\n".join(said)
    words = {line.split()[0]: line.split() for line in said if line.startswith(("clf", "avg_I", "max_loss"))}
    assert words["clfp_acc"][1:4] == ["9", "9", "0"]
    assert words["clfp_acc_on_backdoor"][1:4] == ["9", "8", "1"]
    assert words["avg_I_poison_train_triggered_test_clf"][1:4] == ["9", "8", "0.33"]
    assert words["max_loss"][1:3] == ["9", "9"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--pairs 7-7", "names class 7 twice"),
        ("--pairs seven", "'seven' is no pair"),
        ("--pairs 7-12", "no class 12"),
        ("--pairs", "tell two classes apart: --pairs needs at least one"),
        ("--Cs 0", "--Cs must be above 0 and finite, got 0"),
        ("--Cs", "--Cs needs at least one value"),
        ("--betas 0 3", "--betas must be in [0, 1], got 3"),
        ("--trigger-size 9", "does not fit images of 8x8"),
        ("--poison-rates 0.0001", "poisons nobody"),
        ("--compare nowhere.csv", "there is no such file"),
        ("--recipe paper", "unknown recipe: paper"),
        ("--recipe published", "are too few"),
        ("--models svn", "unknown model: svn"),
        ("--model resnet18", "--model resnet18: this sweep has --models"),
        ("--models svm --defences none vibe --epochs 3", "--defences is for networks, and --models names none"),
        ("--train-images 5000", "only 260 training images"),
    ],
)
def test_what_cannot_be_run_is_said_before_any_work(
    more: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(tmp_path, more)[0] == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "m.db").exists()


def test_pairs_sizes_and_learners_multiply() -> None:
    options = CurveOptions.of(
        pairs=("all",), trigger_size=(1, 2), seeds=1, models=("svm", "svm_rbf"), poison_rates=(0.1,)
    )
    configs = expand_curves(options)
    assert len({c.data for c in configs}) == 45
    assert len(configs) == 45 * 2 * 2 * (6 + 2 * 4)
    assert [c.poison_rate for c in configs] == sorted(c.poison_rate for c in configs)
    limited = expand_curves(options.replace(pairs=("7-1", "7-1"), train_images=100))
    assert {c.data for c in limited} == {"digits[7,1;100]"}


def test_networks_take_the_axes_and_the_betas() -> None:
    options = CurveOptions.of(models=("small_cnn",), pairs=(), seeds=1, poison_rates=(0.1,), labels="all_to_one")
    options = options.replace(crop=(0, 1), flip=(False, True), weight_decays=(5e-4,), widths=(0.5,))
    configs = expand_curves(options)
    poisoned = [c for c in configs if c.poison_rate]
    assert {(c.train.crop, c.train.flip) for c in poisoned} == {(0, False), (0, True), (1, False), (1, True)}
    assert {c.train.beta for c in poisoned} == {0, 0.01, 0.03, 0.1, 0.3, 1}
    assert len(poisoned) == 4 * 6
    assert {c.train.beta for c in configs if not c.poison_rate} == {1}
    assert all(isinstance(c.metrics[-1], LearningCurves) for c in configs)
    whole = expand_curves(options.replace(data="digits[7,1]"))
    assert {c.data for c in whole} == {"digits[7,1]"}
    with pytest.raises(InputError, match="is a part already"):
        expand_curves(options.replace(data="digits[7,1]", pairs=("7-1",)))


def test_the_paper_s_grid() -> None:
    options = PRESETS["paper"]
    curves = options.curves
    assert len(curves.Cs) == 10
    assert (curves.Cs[0], curves.Cs[6]) == pytest.approx((1e-4, 4.6415888336127775))
    assert (curves.Cs_rbf[0], curves.Cs_rbf[-1]) == pytest.approx((0.1, 100))
    assert (curves.gammas[0], curves.gammas[2], curves.gammas[-1]) == pytest.approx((5e-4, 5e-3, 5e-2))
    assert curves.seed_values == (1, 10, 11, 100, 101)
    assert len(options.training.betas) == 20
    assert len([c for c in expand_curves(options) if c.poison_rate]) == 3 * 2 * 5 * (3 * 10 + 50)


def history(*shares: tuple[int, float, float]) -> list[dict[str, object]]:
    return [{"epoch": e, "metrics": {"attack_success": a, "accuracy/clean": c}} for e, a, c in shares]


def test_epochs_at_which_shares_pass_a_half() -> None:
    found = LearningCurves().conclude(history((1, 0.1, 0.3), (2, 0.3, 0.7), (4, 0.7, 0.9)))
    assert found == pytest.approx({"curve/epoch50": 3, "curve/epoch50/clean": 1.5})
    never = LearningCurves().conclude(history((1, 0.1, 0.6), (2, 0.2, 0.7)))
    assert never == {"curve/epoch50/clean": 1}
    assert LearningCurves().conclude(history((1, 0.9, 0.9))) == {}


def test_networks_over_beta_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"sqlite:///{tmp_path}/m.db"
    text = "--models small_cnn --pairs --labels all_to_one --poison-rates 0.1 --seeds 1 --epochs 4 --widths 0.25"
    text += f" --betas 0 0.1 1 --weight-decays 0.0005 --inline --results {tmp_path}/r --tracking-uri {uri}"
    assert run(text.split()) == 0
    table: pd.DataFrame = trial_table(load_runs("learning_curves", uri, all_metrics=True))
    assert sorted(table.query("poison_rate > 0")["beta"]) == [0, 0.1, 1]
    assert table.query("beta == 1 and poison_rate > 0")["curve/epoch50"].between(1, 4).all()
    assert "beta50" in capsys.readouterr().out
    figures = {p.name.split("_")[0] for p in (tmp_path / "r" / "learning_curves" / "figures").glob("*.png")}
    assert figures == {"epochs"}
