"""The figure of information at a resolution: I(X; T + s Z) over s, with the trigger and without, and in the twin."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raybd.metrics.information.resolution import GRIDS
from raybd.utils.figures import legend_below, subplots
from raybd.utils.metric_names import FRESH

History = Sequence[Mapping[str, Any]]
KINDS = {  # of noise: heading, and the signature that is read in it
    "own": ("s, of the network's own noise", "mi/signature"),
    "iso": ("s, of a feature's deviation", "mi/signature_isotropic"),
}
LINES = {  # prefix and group: colour, dashes, label
    ("mi", FRESH): ("#d55e00", "-", "with the trigger"),
    ("mi", f"{FRESH}_plain"): ("#d55e00", "--", "without"),
    ("mi/control", FRESH): ("#5c5c5c", "-", "clean twin, with the trigger"),
    ("mi/control", f"{FRESH}_plain"): ("#5c5c5c", "--", "clean twin, without"),
}


def resolution_curves(history: History, title: str) -> Figure | None:
    """The curves at the last epoch that has them, from `low` up to `loo` shaded; None where there are none.

    A line marks the s at which the signature is read.
    """
    name = f"mi/xt_own/s_{GRIDS['own'][0]:g}/{FRESH}/low"
    measured = [entry for entry in history if name in entry["metrics"]]
    if not measured:
        return None
    metrics, epoch = measured[-1]["metrics"], measured[-1]["epoch"]
    figure, both = subplots(f"{title}, epoch {epoch}", 10, 4, 2, above=0.6)
    for axes, kind in zip(both, KINDS, strict=True):
        _panel(axes, metrics, kind)
    legend_below(figure, figure.axes[0], title="X: the image; T: the features of the last block; Z: standard noise")
    return figure


def _panel(axes: Axes, metrics: Mapping[str, float], kind: str) -> None:
    grid, (heading, signature) = GRIDS[kind], KINDS[kind]
    for (prefix, group), (colour, dashes, label) in LINES.items():
        names = [f"{prefix}/xt_{kind}/s_{s:g}/{group}" for s in grid]
        if f"{names[0]}/low" in metrics:
            low, loo = ([metrics[f"{name}/{end}"] for name in names] for end in ("low", "loo"))
            axes.plot(grid, low, dashes, color=colour, linewidth=1.2, label=label)
            axes.fill_between(grid, low, loo, color=colour, alpha=0.1, linewidth=0)
    most = max(float(np.max(line.get_ydata())) for line in axes.lines)  # loo may be far above, and is cut off
    axes.set(xlabel=heading, ylabel="I(X; T + s Z) (nats)", ylim=(0, 1.2 * most))
    _mark(axes, metrics, signature)


def _mark(axes: Axes, metrics: Mapping[str, float], signature: str) -> None:
    """Where the signature is read, and what it is."""
    if metrics.get(f"{signature}/saturated"):
        axes.set_title("signature: cannot be told", fontsize="small")
    elif f"{signature}/s" in metrics:
        value, error, s = (metrics[signature + end] for end in ("", "/error", "/s"))
        axes.axvline(s, color="black", linewidth=0.8, linestyle=":")
        axes.set_title(f"signature {value:.2f} ± {error:.2f} at s = {s:g}", fontsize="small")
