"""What the pictures of smoothness hold, read from their axes."""

from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from matplotlib import get_backend

from raybd.attacks import ATTACKS
from raybd.metrics.smoothing.conclusion import seed_interval
from raybd.metrics.smoothing.figures import draw_gaps, draw_histograms, draw_levels
from raybd.metrics.smoothness import Smoothness
from raybd.trials.config import TrialConfig
from raybd.trials.validate import data_problems
from raybd.types import Data

SIGMAS = (0.05, 0.1, 0.25)


def trials(n: int = 12) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rate = np.repeat([0.01, 0.05, 0.2], n // 3)
    success = np.clip(0.4 + 2 * rate + 0.1 * rng.normal(size=n), 0, 1)
    attack = np.tile(["badnets", "blended"], n // 2)
    return pd.DataFrame({"attack_success": success, "gap": success**2, "poison_rate": rate, "attack": attack})


def test_levels_are_means_over_seeds_with_their_bands() -> None:
    levels = {"clean": np.array([[0.1, 0.4, 0.9], [0.3, 0.6, 1.1], [0.2, 0.5, 1.0]]), "triggered": np.ones((1, 3))}
    (axes,) = draw_levels(levels, SIGMAS, "digits").axes
    clean, triggered = axes.lines
    assert clean.get_xdata().tolist() == list(SIGMAS)
    assert clean.get_ydata() == pytest.approx([0.2, 0.5, 1.0])
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == ["clean", "triggered"]
    assert clean.get_linestyle() != triggered.get_linestyle()  # told apart without colour
    (band,) = axes.collections  # one seed has none
    edges = band.get_paths()[0].vertices[:, 1]
    interval = seed_interval([0.1, 0.3, 0.2])
    assert edges.min() == pytest.approx(interval.low)


def test_gaps_show_the_correlation_and_the_confound() -> None:
    figure = draw_gaps(trials(), "all trials")
    left, right = figure.axes[:2]
    assert left.get_title().startswith("Spearman 1.00 [")
    assert "over 12 trials; at a fixed poison rate" in left.get_title()
    assert sum(len(dots.get_offsets()) for dots in left.collections) == 12
    assert sum(len(dots.get_offsets()) for dots in right.collections) == 12
    assert "confound" in right.get_title()


def test_a_few_trials_have_no_correlation() -> None:
    assert "3 trials: too few" in draw_gaps(trials(12).head(3), "few").axes[0].get_title()


def test_histograms_are_shares() -> None:
    (axes,) = draw_histograms({"clean": np.linspace(0, 1, 50), "triggered": np.zeros(20)}, "W").axes
    for patch in axes.patches:
        heights = patch.get_xy()[:, 1]
        assert 0 < heights.max() <= 1 + 1e-9
    assert axes.patches[1].get_xy()[:, 1].max() == pytest.approx(1)


def test_figures_can_be_saved_without_a_screen() -> None:
    backend = get_backend()
    for figure in (
        draw_levels({"clean": np.ones((2, 3))}, SIGMAS, "a"),
        draw_gaps(trials(), "b"),
        draw_histograms({"clean": np.zeros(4)}, "c"),
    ):
        figure.savefig(out := BytesIO(), format="png")
        assert out.getvalue()[:4] == b"\x89PNG"
    assert get_backend() == backend


def test_more_points_than_the_attack_counts_are_refused_before_training(digits: Data) -> None:
    tact = ATTACKS["tact"]()
    counted = int(tact.measured(digits.test.y).sum())
    wanted = TrialConfig(attack=tact, poison_rate=0.05, metrics=(Smoothness(points=counted + 1),))
    assert any(f"counts {counted} test images" in problem for problem in data_problems(wanted, digits))
    enough = TrialConfig(attack=tact, poison_rate=0.05, metrics=(Smoothness(points=counted),))
    assert data_problems(enough, digits) == []
