"""Pictures of smoothness: plain arrays in, a matplotlib Figure out; nothing is written and no backend is touched."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from raybd.metrics.smoothing.compare import rank_correlation
from raybd.metrics.smoothing.conclusion import seed_interval
from raybd.utils.figures import legend_below, subplots

Values = NDArray[np.float64]
LINES = ("-", "--", ":", "-.")
MARKS = "os^Dv<>Pp*X"
MIN_TRIALS = 4  # trials that a correlation needs
BINS = 20
SUCCESS = "#b4500a"
ENTROPY = "W, entropy of the classes under noise (nats)"


def draw_levels(levels: Mapping[str, Values], sigmas: Sequence[float], title: str) -> Figure:
    """W against sigma: a line for each variant of `levels`, mean of (seeds, sigmas), with its 95 % band over seeds."""
    figure, [axes] = subplots(title, 6, 4)
    for number, (variant, values) in enumerate(levels.items()):
        line = LINES[number % len(LINES)]
        axes.plot(sigmas, values.mean(0), line, marker=MARKS[number % len(MARKS)], markersize=4, label=variant)
        if len(values) > 1:
            band = [seed_interval(column) for column in values.T.tolist()]
            axes.fill_between(sigmas, [i.low for i in band], [i.high for i in band], alpha=0.15)
    axes.set(xlabel="sigma (pixels of [0, 1])", ylabel=ENTROPY, xscale="log")
    axes.set_xticks(list(sigmas), [f"{sigma:g}" for sigma in sigmas], minor=False)
    axes.minorticks_off()
    legend_below(figure, axes)
    return figure


def draw_gaps(trials: pd.DataFrame, title: str) -> Figure:
    """The gap against the attack success rate over trials, and both against the poison rate, which drives either.

    `trials` has one row a trial: attack_success, gap (nats), poison_rate, attack. The heading gives Spearman's rho with
    its 95 % interval, and what is left of it at a fixed poison rate.
    """
    figure = Figure(figsize=(10, 4), dpi=80, layout="constrained")
    (left, right), keys = figure.subplots(1, 2), list[Line2D]()
    for number, (attack, group) in enumerate(trials.groupby("attack")):
        mark, name = MARKS[number % len(MARKS)], str(attack)
        scatter = left.scatter(
            group["attack_success"],
            group["gap"],
            c=group["poison_rate"],
            marker=mark,
            label=name,
            vmin=0,
            vmax=max(float(trials["poison_rate"].max()), 1e-9),
        )
        right.scatter(group["poison_rate"], group["gap"], marker=mark, color="black")
        keys.append(Line2D([], [], marker=mark, color="black", linestyle="none", label=name))
    figure.colorbar(scatter, ax=left, label="poison rate")
    left.axhline(0, linewidth=0.8, color="grey")
    left.set(
        xlabel="attack success rate",
        ylabel="gap W(clean) - W(triggered), W: entropy under noise (nats)",
        xlim=(-0.03, 1.03),
    )
    left.set_title(_correlation(trials), fontsize="small")
    _confound(right, trials)
    figure.legend(handles=keys, loc="outside lower center", ncols=6, frameon=False)
    figure.suptitle(title, fontsize="medium")
    return figure


def draw_histograms(points: Mapping[str, Values], title: str) -> Figure:
    """How W (nats) is spread over the points (N,) of each variant, on one axis."""
    figure, [axes] = subplots(title, 6, 4)
    highest = max((float(values.max()) for values in points.values()), default=0.0)
    edges = np.linspace(0, max(highest, 1e-6), BINS + 1)
    for number, (variant, values) in enumerate(points.items()):
        share = np.full(len(values), 1 / max(len(values), 1))
        line = LINES[number % len(LINES)]
        axes.hist(
            values, bins=edges.tolist(), weights=share, histtype="step", linestyle=line, linewidth=1.5, label=variant
        )
    axes.set(xlabel=ENTROPY, ylabel="share of points")
    legend_below(figure, axes)
    return figure


def _correlation(trials: pd.DataFrame) -> str:
    if len(trials) < MIN_TRIALS:
        return f"{len(trials)} trials: too few for a correlation"
    columns = (trials[name].to_numpy(dtype=float) for name in ("attack_success", "gap", "poison_rate"))
    found = rank_correlation(*columns)
    return (
        f"Spearman {found.rho:.2f} [{found.low:.2f}, {found.high:.2f}] over {len(trials)} trials; "
        f"at a fixed poison rate {found.partial:.2f}"
    )


def _confound(axes: Axes, trials: pd.DataFrame) -> None:
    """The poison rate moves the success rate as it moves the gap: both on one picture."""
    success = axes.twinx()
    success.plot(trials["poison_rate"], trials["attack_success"], "x", color=SUCCESS)
    success.set(ylim=(-0.03, 1.03))
    success.set_ylabel("attack success rate (crosses)", color=SUCCESS)
    axes.set(xlabel="poison rate", ylabel="gap (nats; black)")
    axes.set_title("the confound: the rate drives both", fontsize="small")
