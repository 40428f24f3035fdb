"""Tables of learning-curve sweeps on frames whose answers are known."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.curve_compare import read_published
from analysis.curve_figures import draw_all
from analysis.learning_curves import beta_cells, beta_table, rates_over_c, region_table, regions, trial_table
from raybd.convex.region import region_width, region_width_band
from raybd.errors import InputError
from tests.test_convex_region import ATTACK, CLEAN, GRID, published


def runs(rows: list[dict[str, object]]) -> pd.DataFrame:
    usual = {
        "status": "FINISHED",
        "params.data": "mnist[7,1]",
        "params.attack.name": "badnets",
        "params.attack.size": "3",
        "params.poison_rate": "0.1",
        "metrics.count/clean": 500.0,
    }
    return pd.DataFrame([usual | {"tags.raybd.key": str(i)} | row for i, row in enumerate(rows)])


def published_runs(model: str, rate: str = "0.1") -> list[dict[str, object]]:
    clean, attack = published(CLEAN, model), published(ATTACK, model)
    return [
        {
            "params.model.name": model,
            "params.model.C": str(c),
            "params.seed": str(seed),
            "params.poison_rate": rate,
            "metrics.accuracy/clean": clean[i, j],
            "metrics.attack_success": attack[i, j],
        }
        for i, seed in enumerate((1, 10, 11, 100, 101))
        for j, c in enumerate(GRID)
    ]


def test_regions_of_the_published_rows() -> None:
    """Widths of the specification at rate 0.1 and attack success 0.2: 0.90, 0.66 and 0.48 decades."""
    table = trial_table(runs([row for model in ("svm", "logistic", "ridge") for row in published_runs(model)]))
    found = regions(table, region_width, region_width_band, limits=(0.2,))
    assert {r.setting[2]: round(r.width, 2) for r in found} == {"svm": 0.90, "logistic": 0.66, "ridge": 0.48}
    assert all(r.low <= r.width <= r.high and r.seeds == 5 for r in found)
    assert region_table(found).splitlines()[1].split()[:6] == ["mnist[7,1]", "badnets", "3", "logistic", "-", "0.1"]


def test_a_seed_that_lacks_a_c_does_not_count_and_failed_trials_never_do() -> None:
    rows = published_runs("svm")
    rows[3]["status"] = "FAILED"
    cell = trial_table(runs(rows))
    assert len(cell) == 49
    grid, clean, attack, samples = rates_over_c(cell)
    assert grid.tolist() == pytest.approx(GRID.tolist())
    assert clean == pytest.approx(published(CLEAN, "svm")[1:])
    assert attack == pytest.approx(published(ATTACK, "svm")[1:])
    assert samples == 500


def test_one_c_or_no_poison_is_no_region() -> None:
    rows = [row for row in published_runs("svm") if row["params.model.C"] == str(GRID[0])]
    assert regions(trial_table(runs(rows)), region_width, region_width_band) == []
    assert regions(trial_table(runs(published_runs("svm", "0.0"))), region_width, region_width_band) == []
    assert region_table([]) == ""


def nets(seed: str, shape: dict[str, tuple[float, float]]) -> list[dict[str, object]]:
    return [
        {
            "params.model.name": "small_cnn",
            "params.train.beta": beta,
            "params.train.weight_decay": "0.05",
            "params.seed": seed,
            "metrics.accuracy/clean": 0.98,
            "metrics.attack_success": success,
            "metrics.loss/triggered": loss,
        }
        for beta, (success, loss) in shape.items()
    ]


def test_networks_over_beta() -> None:
    """ASR 0, 0.25, 0.75 at beta 0, 0.01, 1: a half at 0.1, mean over decades a half; B falls by 2 at beta 0.01."""
    shape = {"0.0": (0.0, 8.0), "1.0": (0.75, 1.0), "0.01": (0.25, 6.0)}
    cells = beta_cells(trial_table(runs(nets("0", shape) + nets("1", dict.fromkeys(shape, (0.1, 8.0))))))
    first, second = (cells[cells["seed"] == seed].iloc[0] for seed in (0, 1))
    assert first["beta50"] == pytest.approx(0.1)
    assert first["area"] == pytest.approx(0.5)
    assert first["secant"] == pytest.approx(-7)
    assert first["secant_least"] == pytest.approx(-200)
    assert first["theta"] == pytest.approx(2 / math.pi * math.atan(200))
    assert first["log_slope"] == pytest.approx(math.log10(200))
    assert math.isinf(second["beta50"])
    assert math.isnan(second["log_slope"])
    line = beta_table(cells).splitlines()[1]
    assert " 2      inf (1 never)  0.300 ± 0.283  " in line  # areas of 0.5 and 0.1
    assert beta_table(beta_cells(trial_table(runs(nets("0", {"1.0": (0.75, 1.0)}))))) == ""


def test_figures_of_all_kinds_are_drawn() -> None:
    rows = []
    for model in ("svm", "svm_rbf"):
        for gamma in ("None",) if model == "svm" else ("0.01", "0.1"):
            for row in published_runs("svm"):
                curve = {f"metrics.curve/{n}/beta_{b}": 1 + b for n in ("B", "K", "rho", "nu") for b in (0, 0.1, 1)}
                new = {"params.model.name": model, "params.model.gamma": gamma, "metrics.curve/slope": -1.0}
                rows.append(row | curve | new)
    table = trial_table(runs(rows))
    found = regions(table, region_width, region_width_band, limits=(0.1, 0.2))
    named = draw_all(table, found)
    assert {name.split()[0] for name in named} == {"slopes", "curves", "paths", "heat", "regions"}
    assert len([name for name in named if name.startswith("curves")]) == 2
    panels = named["curves mnist[7,1] badnets 3 svm"].axes
    assert [ax.get_title() for ax in panels][:1] == ["C = 0.0001"]
    assert panels[0].lines[0].get_xydata() == pytest.approx(np.array([[0, 1], [0.1, 1.1], [1, 2]]))
    drawn = named["regions mnist[7,1] badnets 3"].axes[0].lines
    assert len(drawn) == 3


HEAD = "seed,gamma,c,trigger_type,trigger_size,trigger_type,clf_acc,clfp_acc,clfp_acc_on_backdoor,clfp_acc_tr"
INFLUENCE = ",".join(f"{kind}_I_poison_train_triggered_test_clf" for kind in ("avg", "avg_abs", "norm"))


def test_the_authors_files_are_read_by_name(tmp_path: Path) -> None:
    path = tmp_path / "svm-rbf_pair7-1_ttypebadnet_tsize6.csv"
    row = '1,0.0005,0.1,badnet,"(6, 6)",badnet,0.91,0.868,0.132,0.84,-0.0003,0.01,1452.7,1.6,0.05,2.2'
    path.write_text(f"{HEAD},{INFLUENCE},mean_loss,min_loss,max_loss\n{row}\n")
    model, pair, rows = read_published(path)
    assert (model, pair) == ("svm_rbf", "7-1")
    assert rows["size"].tolist() == [6]


def test_files_that_are_none_of_theirs(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError) as caught:
        read_published(tmp_path / "table.csv")
    assert "has no column seed, gamma, c" in caught.value.problems[0]
    assert "does not tell its learner" in caught.value.problems[1]
    with pytest.raises(InputError, match="is no table"):
        read_published(tmp_path / "nowhere.csv")
