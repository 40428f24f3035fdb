"""Pictures of one trial's learning curve: plain arrays in, a matplotlib Figure out."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from raybd.utils.figures import legend_below

LOSSES = {"backdoor_loss": "B, triggered", "clean_loss": "K, clean"}
TICK_SPACING = 0.28  # decades between two ticks
COLOURS = {"backdoor_loss": "C3", "clean_loss": "C0", "attack_success": "C1", "clean_accuracy": "C2"}
SHARES = {"attack_success": "attack success", "clean_accuracy": "clean accuracy"}


def draw_learning_curve(curve: Mapping[str, NDArray[np.float64]], title: str) -> Figure:
    """Losses on the left and shares on the right over log beta, each (B,); a beta of 0 stands left of the others.

    Ticks and margins are set by hand: a sweep draws hundreds of these, and finding them takes longer than a trial.
    """
    figure = Figure(figsize=(9, 3.2), dpi=80)
    figure.subplots_adjust(left=0.07, right=0.99, bottom=0.16, top=0.88, wspace=0.2)
    positions, ticks = _positions(curve["betas"])
    panels = ((LOSSES, "loss"), (SHARES, "share of test images"))
    for axes, (lines, unit) in zip(figure.subplots(1, 2), panels, strict=True):
        for name, label in lines.items():
            axes.plot(positions, curve[name], marker="o", markersize=3, color=COLOURS[name], label=label)
        axes.set(xlabel="beta, weight of the poison", ylabel=unit)
        axes.set_xticks([positions[i] for i in ticks], [f"{curve['betas'][i]:g}" for i in ticks])
    figure.axes[1].set_ylim(-0.03, 1.03)
    legend_below(figure, *figure.axes)
    figure.suptitle(title, fontsize="medium")
    return figure


def _positions(betas: NDArray[np.float64]) -> tuple[list[float], list[int]]:
    """Positions of `betas` (B,), ascending, on a logarithmic axis with a place for 0, and which get a tick."""
    least = float(np.log10(betas[betas > 0].min()))
    positions = [float(np.log10(beta)) if beta > 0 else least - 0.5 for beta in betas]
    ticks: list[int] = []
    for i, position in enumerate(positions):
        if not ticks or position - positions[ticks[-1]] > TICK_SPACING:
            ticks.append(i)
    return positions, ticks
