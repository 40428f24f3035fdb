"""Figures of a trial: legends stand below the plots, ticks are plain numbers."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.style import add_legend
from raybd.execution.setup import TrialSetup
from raybd.tracking.store import Address
from raybd.training import TrainConfig
from raybd.trials.artifacts import save_artifacts
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.records import SweepFolder
from raybd.trials.run import run_trial
from raybd.types import Data
from raybd.utils.figures import legend_below, subplots, training_curves


def history(epochs: int = 12) -> list[dict]:
    losses = np.geomspace(2.5, 0.012, epochs)
    names = ("accuracy/clean", "attack_success", "accuracy/robust")
    return [
        {"epoch": k + 1, "metrics": dict.fromkeys(names, 0.5) | {"loss/train": loss}} for k, loss in enumerate(losses)
    ]


@pytest.mark.parametrize(("columns", "names"), [(1, 2), (2, 11), (3, 5)])
def test_a_legend_covers_no_plot_and_no_name_of_an_axis(columns: int, names: int) -> None:
    figure, plots = subplots("title", 3.4 * columns, 3, columns)
    for k in range(names):
        plots[0].plot([0, 1], [k, k], label=f"a rather long name {k}")
    plots[0].set_xlabel("epoch")
    before = [plot.get_position().height * figure.get_figheight() for plot in plots]
    legend_below(figure, plots[0], title="what it means")
    assert [plot.get_position().height * figure.get_figheight() for plot in plots] == pytest.approx(before)
    check(figure)


def test_a_legend_of_a_constrained_layout_covers_no_plot() -> None:
    figure = Figure(figsize=(6, 3), dpi=80, layout="constrained")
    for axes in figure.subplots(1, 2):
        axes.plot([0, 1], [0, 1], label="attack success of a long name")
        axes.plot([0, 1], [1, 0], label="another")
        axes.set_xlabel("beta")
    add_legend(figure)
    check(figure)


def check(figure: Figure) -> None:
    """The legend lies within the figure and below every plot with its labels."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    [legend] = figure.legends
    box = legend.get_window_extent(renderer)
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert all(box.y1 <= axes.get_tightbbox(renderer).y0 + 1 for axes in figure.axes)


def test_ticks_of_the_loss_are_plain_numbers() -> None:
    figure = training_curves(history(), "a trial")
    figure.savefig(BytesIO())
    right = figure.axes[1]
    shown = [label.get_text() for label in (*right.get_yticklabels(), *right.get_yticklabels(minor=True))]
    assert {"0.1", "1"} <= set(shown)
    assert not [text for text in shown if "e" in text or "$" in text]


def test_a_trial_s_figures_are_saved_in_the_formats_asked_for(digits: Data, tmp_path: Path) -> None:
    config = TrialConfig(poison_rate=0.05, model=ModelConfig(width=0.25), train=TrainConfig(epochs=1))
    folder = SweepFolder.of(tmp_path, "made").trial("key")
    folder.path.mkdir(parents=True)
    result = run_trial(config, digits, report=lambda epoch: folder.append(epoch.epoch, epoch.metrics))
    save_artifacts(folder, config, result, ())
    assert not (folder.path / "figures").exists()
    save_artifacts(folder, config, result, ("png", "svg", "pdf"))
    begin = {path.name: path.read_bytes()[:5] for path in (folder.path / "figures").iterdir()}
    assert begin == {
        "examples.png": b"\x89PNG\r",
        "training.png": b"\x89PNG\r",
        "training.svg": b"<?xml",
        "training.pdf": b"%PDF-",
    }


@pytest.mark.parametrize(
    ("figures", "seed", "formats"),
    [("all", 1, ("png", "svg")), ("first_seed", 0, ("png", "svg")), ("first_seed", 1, ()), ("none", 0, ())],
)
def test_which_trials_draw_figures(figures: str, seed: int, formats: tuple[str, ...], tmp_path: Path) -> None:
    folder, address = SweepFolder.of(tmp_path, "made"), Address("sqlite://", "1", "", "made")
    setup = TrialSetup("made", folder, address, figures=figures, figure_formats=("svg",))
    assert setup.formats(TrialConfig(seed=seed)) == formats
