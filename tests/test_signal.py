"""What measures foretell: against scikit-learn, hand counts, planted signals and planted confounds."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from analysis.signal import read_observations, signal_sentences, signal_table, trade_off_table, write_observations
from analysis.signal.correlation import rank_correlations
from analysis.signal.measures import RANDOM
from analysis.signal.null import adjusted_p_values, permuted_labels
from analysis.signal.pairs import areas, pairs_by, pooled_pairs, unseen_areas
from analysis.signal.table import Cells
from raybd.errors import InputError

RATES, ATTACKS, SEEDS = (0.01, 0.03, 0.1), ("badnets", "blended", "sig", "wanet"), 3


def observations(seed: int = 0, settings: int = 4, epochs: tuple[int, ...] = (1, 5)) -> pd.DataFrame:
    """Trials of cells over rates, attacks and settings, whose verdict grows likelier with the rate."""
    rng, rows, cell = np.random.default_rng(seed), [], 0
    for rate in RATES:
        for attack in ATTACKS:
            for setting in range(settings):
                holds = rng.random() < 0.2 + 5 * rate
                for _ in range(SEEDS):
                    success = np.clip(0.8 * holds + 0.1 + 0.05 * rng.normal(), 0, 1)
                    place = {"cell": cell, "attack": attack, "poison_rate": rate, "setting": f"width={setting}"}
                    place["takes_hold"] = holds
                    trial = place | {"trial": len(rows) // len(epochs), "success": success}
                    rows += [trial | {"epoch": epoch} for epoch in epochs]
                cell += 1
    frame = pd.DataFrame(rows)
    noise = rng.normal(size=(len(frame), 3))
    return frame.assign(
        **{
            RANDOM: rng.random(len(frame)),
            "loss/clean": frame["takes_hold"] + 0.5 * noise[:, 0],  # a signal
            "accuracy/clean": 100 * frame["poison_rate"] + 0.1 * noise[:, 1],  # of the rate, and of nothing else
            "attack_success": frame["success"] + 0.3 * noise[:, 2],
        }
    )


def by_rate(frame: pd.DataFrame, name: str):
    return pairs_by(frame, name, ["poison_rate"])


def at_epoch(frame: pd.DataFrame, epoch: int = 1) -> pd.DataFrame:
    return frame[frame["epoch"] == epoch]


def test_the_pooled_area_is_that_of_scikit_learn_and_within_rates_the_mean_over_pairs():
    frame = at_epoch(observations())
    frame["loss/clean"] = frame["loss/clean"].round(1)  # with ties
    cells = Cells.of(frame)
    pooled = areas(pooled_pairs(frame, "loss/clean"), cells.takes_hold)
    assert pooled[0] == pytest.approx(roc_auc_score(frame["takes_hold"], frame["loss/clean"]), abs=1e-12)
    parts = [part for _, part in frame.groupby("poison_rate")]
    sizes = [part["takes_hold"].sum() * (~part["takes_hold"]).sum() for part in parts]
    scores = [roc_auc_score(part["takes_hold"], part["loss/clean"]) for part in parts]
    within = areas(by_rate(frame, "loss/clean"), cells.takes_hold)
    assert within[0] == pytest.approx(np.average(scores, weights=sizes), abs=1e-12)


def test_the_area_does_not_change_with_the_scale_and_turns_with_the_sign():
    frame = at_epoch(observations())
    frame = frame.assign(grown=np.exp(3 * frame["loss/clean"]), turned=-frame["loss/clean"])
    labels = Cells.of(frame).takes_hold
    plain, grown, turned = (areas(by_rate(frame, n), labels)[0] for n in ("loss/clean", "grown", "turned"))
    assert grown == pytest.approx(plain, abs=1e-12)
    assert turned == pytest.approx(1 - plain, abs=1e-12)


def test_a_cell_drawn_twice_counts_as_two():
    frame = at_epoch(observations())
    cells = Cells.of(frame)
    weights = np.ones((1, len(cells.rates)))
    weights[0, 5] = 2
    copied = pd.concat([frame, frame[frame["cell"] == 5].assign(cell=len(cells.rates))])
    drawn = areas(by_rate(frame, "loss/clean"), cells.takes_hold, weights)
    assert drawn[0] == pytest.approx(areas(by_rate(copied, "loss/clean"), Cells.of(copied).takes_hold)[0], abs=1e-12)


def test_the_direction_on_an_unseen_attack_is_that_of_the_others():
    frame = at_epoch(observations())
    mirrored = frame["attack"] == "wanet"  # there the measure tells the contrary
    frame["loss/clean"] = frame["takes_hold"].astype(float).where(~mirrored, -frame["takes_hold"].astype(float))
    cells = Cells.of(frame)
    found = unseen_areas(by_rate(frame, "loss/clean"), cells.takes_hold, cells.attacks, np.ones((1, len(cells.rates))))
    assert found[0].tolist() == [1.0, 1.0, 1.0, 0.0]


def test_the_partial_correlation_is_that_of_the_inverse_correlation_matrix():
    frame = at_epoch(observations())
    once = np.ones((1, frame["cell"].max() + 1))
    plain, given = (part[0] for part in rank_correlations(frame, "loss/clean", "success", once))
    assert plain == pytest.approx(spearmanr(frame["loss/clean"], frame["success"]).statistic, abs=1e-12)
    ranks = frame[["loss/clean", "success", "poison_rate"]].rank()
    precision = np.linalg.inv(np.corrcoef(ranks.to_numpy().T))
    assert given == pytest.approx(-precision[0, 1] / np.sqrt(precision[0, 0] * precision[1, 1]), abs=1e-12)
    one_rate = frame[frame["poison_rate"] == RATES[2]]
    alone = rank_correlations(one_rate, "loss/clean", "success", once)
    assert alone[1][0] == pytest.approx(spearmanr(one_rate["loss/clean"], one_rate["success"]).statistic, abs=1e-12)
    flat = one_rate.assign(**{"loss/clean": 1.0})
    assert np.isnan(rank_correlations(flat, "loss/clean", "success", once)).all()


def test_permuted_labels_stay_within_their_rate():
    cells = Cells.of(at_epoch(observations()))
    drawn = permuted_labels(cells.takes_hold, cells.rates, draws=50)
    for rate in RATES:
        at = cells.rates == rate
        assert (drawn[:, at].sum(1) == cells.takes_hold[at].sum()).all()
    assert (drawn != cells.takes_hold).any(1).mean() > 0.9


def test_a_signal_is_found_and_the_rate_alone_and_random_numbers_are_not():
    table = signal_table(observations()).set_index(["measure", "epoch"])
    for epoch in (1, 5):
        signal, rate, random = (table.loc[(name, epoch)] for name in ("loss/clean", "accuracy/clean", RANDOM))
        assert signal["p"] < 0.01
        assert signal["low"] > 0.7
        assert signal["AUC unseen"] > 0.8
        assert rate["AUC"] > 0.6  # the confound: more poison, more backdoors
        assert rate["p"] > 0.2
        assert rate["low"] < 0.5 < rate["high"]
        assert abs(rate["given the rate"]) < 0.25
        assert random["p"] > 0.2
    assert table.index[0][0] in ("attack_success", "loss/clean")


def test_a_measure_of_the_setting_alone_is_worth_a_half_within_settings():
    """Where wide networks take the backdoor and narrow ones do not, a measure of the width tells only that."""
    frame = observations()
    wide = frame["setting"].isin(["width=2", "width=3"])
    frame = frame.assign(takes_hold=wide & (frame["attack"] != "sig"), **{"loss/clean": wide.astype(float)})
    row = signal_table(frame).set_index(["measure", "epoch"]).loc[("loss/clean", 1)]
    assert row["p"] < 0.01
    assert row["AUC within rates"] == pytest.approx(0.9)  # a win over 8 narrow cells, a tie with 2 wide ones
    assert row["AUC within settings"] == 0.5


def test_sentences_name_the_best_of_each_kind_and_the_control():
    sentences = signal_sentences(signal_table(observations()))
    assert sentences[0].startswith("2 of 3 measures tell before the end, at equal poison rates")
    assert "what a defender sees, the best is loss/clean at epoch 1 (AUC 0." in sentences[1]
    assert "Knowing the trigger, the best is attack_success at epoch 1" in sentences[2]
    assert sentences[-1].startswith("The control, a random number, is worthless")


def test_where_every_cell_is_on_one_side_nothing_is_told():
    frame = observations().assign(takes_hold=True)
    table = signal_table(frame)
    assert table["AUC within rates"].isna().all()
    assert (table["p"] == 1).all()
    assert signal_sentences(table)[0].startswith("Nothing can be told of signals: at each poison rate")
    assert signal_table(frame.iloc[:0]).empty


def test_observations_in_a_file_give_the_same_table(tmp_path):
    frame = observations()
    written = write_observations(frame, tmp_path / "signal.csv.gz")
    first, again = signal_table(frame), signal_table(read_observations(written))
    pd.testing.assert_frame_equal(first, again, rtol=1e-6, check_dtype=False)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="it has no column trial, epoch, cell, attack, poison_rate, setting,"):
        read_observations(tmp_path / "other.csv")
    with pytest.raises(InputError, match="can be read"):
        read_observations(tmp_path / "missing.csv")


def test_a_trade_off_is_judged_at_the_last_epoch():
    frame = observations().assign(**{"stealth/psnr": np.nan, "stealth/s1": np.nan})
    last = frame["epoch"] == 5
    frame.loc[last, "stealth/psnr"] = frame.loc[last, "success"]
    frame.loc[last, "stealth/s1"] = -frame.loc[last, "success"]
    [row] = trade_off_table(frame).to_dict("records")
    assert (row["first"], row["second"], row["cells"]) == ("stealth/psnr", "stealth/s1", frame["cell"].nunique())
    assert row["correlation"] == pytest.approx(-1)
    assert row["high"] == pytest.approx(-1)


@pytest.mark.calibration
def test_p_values_of_no_signal_are_below_a_level_as_often_as_the_level_says():
    least = []
    for seed in range(300):
        frame = at_epoch(observations(seed))
        rng = np.random.default_rng(1000 + seed)
        tests = [by_rate(frame.assign(x=rng.random(len(frame))), "x") for _ in range(5)]
        cells = Cells.of(frame)
        least.append(adjusted_p_values(tests, cells.takes_hold, cells.rates).min())
    share = np.mean(np.array(least) < 0.05)
    assert 0.02 < share < 0.09  # 0.05 within three deviations of 300 draws


def test_no_stratum_has_no_area():
    assert np.isnan(areas([], np.array([1.0, 0.0]))).tolist() == [True]
