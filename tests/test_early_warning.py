"""The early warning: planted signals, planted worthlessness, attacks unseen, calibration by hand."""

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score

from analysis.signal import early_warning
from analysis.signal.measures import RANDOM
from analysis.signal.warning import BINS, area_of, calibration_error
from raybd.errors import InputError
from tests.test_signal import observations


def with_clean(seed: int = 0) -> pd.DataFrame:
    """Observations at epochs 1 and 5 of 5, with clean cells."""
    frame = observations(seed)
    clean = frame[frame["cell"] < 8]
    clean = clean.assign(poison_rate=0.0, attack="none", takes_hold=False, success=0.02)
    clean = clean.assign(cell=clean["cell"] + 100, trial=clean["trial"] + 1000)
    noise = np.random.default_rng(seed).normal(size=len(clean))
    return pd.concat([frame, clean.assign(**{"loss/clean": 0.5 * noise})], ignore_index=True)


def test_a_planted_signal_is_foretold_on_attacks_unseen():
    found = early_warning(with_clean())
    assert found.measures == ("loss/clean", "accuracy/clean")
    assert len(found.predictions) == found.predictions["trial"].nunique() == 48 * 3 + 24
    assert found.area > 0.85
    assert found.area_low < found.area < found.area_high
    assert found.null < found.area_low
    assert found.calibration_error < 0.12
    assert set(found.by_attack) == {"badnets", "blended", "sig", "wanet"}
    assert str(found).startswith("After 20% of the training, from 2 measures, on attacks unseen: AUC 0.")


def test_random_numbers_foretell_nothing():
    frame = with_clean()
    rng = np.random.default_rng(3)
    found = early_warning(
        frame.assign(**{"loss/clean": rng.random(len(frame)), "accuracy/clean": rng.random(len(frame))})
    )
    assert found.area_low < 0.55
    assert found.area < found.null + 0.1


def test_what_comes_later_than_the_share_has_no_say():
    frame = with_clean()
    late = frame["epoch"] == 5
    changed = frame.assign(**{"loss/clean": frame["loss/clean"].where(~late, 1000.0)})
    assert early_warning(frame).predictions.equals(early_warning(changed).predictions)
    assert not early_warning(frame, share=1).predictions.equals(early_warning(frame).predictions)


def test_an_attack_s_own_trials_have_no_say_in_its_prediction():
    """With its verdicts turned about, the predictions of one attack stay, to the bit."""
    frame = with_clean()
    sig = frame["attack"] == "sig"
    turned = frame.assign(takes_hold=frame["takes_hold"] ^ sig)
    one, other = (early_warning(part).predictions.set_index("trial") for part in (frame, turned))
    assert one.loc[one["attack"] == "sig", "probability"].equals(other.loc[other["attack"] == "sig", "probability"])


def test_what_needs_the_trigger_enters_where_it_is_asked_for_and_the_control_never():
    names = early_warning(with_clean(), needs=("nothing", "trigger")).measures
    assert "attack_success" in names
    assert RANDOM not in names


def test_the_calibration_error_is_that_of_scikit_learn_s_curve():
    rng = np.random.default_rng(0)
    p = rng.random(40 * BINS)
    y = (rng.random(len(p)) < p**2).astype(float)
    shown, meant = calibration_curve(y, p, n_bins=BINS, strategy="quantile")
    assert calibration_error(y, p) == pytest.approx(np.abs(shown - meant).mean(), abs=1e-12)
    assert calibration_error(np.array([0.0, 1.0]), np.array([0.0, 1.0])) == 0
    assert area_of(y, p) == pytest.approx(roc_auc_score(y, p), abs=1e-12)
    assert np.isnan(area_of(np.ones(3), p[:3]))


def test_what_cannot_be_foretold_is_refused():
    frame = with_clean()
    one = frame[frame["attack"].isin(["badnets", "none"])].assign(takes_hold=True)
    with pytest.raises(InputError) as refused:
        early_warning(one.drop(columns=["loss/clean", "accuracy/clean"]))
    assert [text.partition(" ")[0] for text in refused.value.problems] == ["an", "an", "no"]
    with pytest.raises(InputError, match="share must be above 0"):
        early_warning(frame, share=0)
