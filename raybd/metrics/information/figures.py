"""Figures of a trial's mutual information: the plane, the curves, and T itself; from its history and arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from raybd.metrics.information.stealth_scores import PHASES
from raybd.utils.figures import legend_below, subplots

History = Sequence[Mapping[str, Any]]
STYLES = {  # group: colour, marker, label; the others are clean classes
    "backdoor": ("#d55e00", "o", "backdoor"),
    "fresh_train": ("#e69f00", "P", "fresh images, triggered"),
    "fresh_train_plain": ("#8c6d1f", "X", "the same, plain"),
    "target_clean": ("#0072b2", "s", "target class, clean part"),
    "target": ("#56b4e9", "D", "target class, whole"),
    "target_mix": ("#cc79a7", "v", "target class, half and half"),
    "random": ("#009e73", "^", "clean classes mixed"),
}
GREYS = ("#303030", "#5c5c5c", "#808080", "#9c9c9c", "#b4b4b4", "#c8c8c8")
LABELS = {"xt": "I(X;T) (nats)", "ty": "I(T;Y_pred) (nats)"}
MEANING = "X: the image; T: the features of the last block, with noise; Y_pred: the logits"


def information_plane(history: History, title: str) -> Figure:
    """I(T;Y_pred) over I(X;T), one path a group along the lower bounds, its points growing with the epoch.

    Bars reach up to the upper bound of I(T;Y_pred): where it lies between the two is not known.
    """
    entries = _measured(history)
    figure, [axes] = subplots(title, 6.4, 4.8)
    sizes = np.linspace(12, 60, len(entries))
    for group in groups_of(entries):
        colour, marker, label = _style(group, entries)
        x, low, high = (
            _series(entries, f"mi/{name}") for name in (f"xt/{group}", f"ty/{group}/lower", f"ty/{group}/upper")
        )
        axes.plot(x, low, color=colour, linewidth=1)
        axes.vlines(x, low, high, color=colour, linewidth=1, alpha=0.4)
        axes.scatter(x, low, s=sizes, color=colour, marker=marker, label=label)
    epochs = ", ".join(str(entry["epoch"]) for entry in entries)
    axes.set(xlabel=LABELS["xt"] + ", lower bound", ylabel=LABELS["ty"] + ", lower to upper bound")
    legend_below(figure, axes, title=f"{MEANING}; epochs {epochs}")
    return figure


def information_curves(history: History, title: str) -> Figure:
    """Lower bounds over the epochs, open where saturated, log N dashed.

    Of I(X;T) with two standard errors, of I(T;Y_pred) with its upper bounds, dotted: it lies between the two.
    """
    entries = _measured(history)
    figure, both = subplots(title, 10, 4, 2)
    for axes, kind in zip(both, LABELS, strict=True):
        for group in groups_of(entries):
            _curve(axes, entries, kind, group)
        names = [
            name for name in entries[-1]["metrics"] if name.startswith(f"mi/{kind}/") and name.endswith("/ceiling")
        ]
        ceiling = _series(entries, names[0])
        axes.plot(_epochs(entries), ceiling, "--", color="black", linewidth=1, label="log N, what N images can show")
        axes.set(xlabel="epoch", ylabel=LABELS[kind], xscale="log")
        axes.set_xticks(_epochs(entries), [str(epoch) for epoch in _epochs(entries)], minor=False)
        axes.minorticks_off()
    legend_below(figure, figure.axes[0], title=MEANING)
    return figure


def feature_maps(arrays: Mapping[str, Tensor | np.ndarray], title: str) -> Figure:
    """T along its two widest axes, in units of its noise, early, in the middle and at the end.

    `arrays` holds `MutualInformation`'s mi/map as mi/map/EPOCH.
    """
    names = {int(name.rpartition("/")[2]): name for name in arrays if name.startswith("mi/map/")}
    last = max(names)
    chosen = sorted({min(names, key=lambda epoch: abs(epoch - share * last)) for share in (*PHASES[:2], 1.0)})
    figure, row = subplots(title, 3.6 * len(chosen) + 0.5, 3.6, len(chosen), above=0.6)
    for axes, epoch in zip(row, chosen, strict=True):
        _scatter(axes, np.asarray(arrays[names[epoch]]))
        axes.set(title=f"epoch {epoch}", xlabel="first axis of T / noise", ylabel="second")
    legend_below(figure, figure.axes[-1], title="T: the features of the last block, with noise")
    return figure


def groups_of(entries: History) -> list[str]:
    """The groups that were measured, the clean classes last."""
    found = {name.split("/")[2] for name in entries[-1]["metrics"] if name.startswith("mi/xt/")}
    return [group for group in STYLES if group in found] + sorted(found - STYLES.keys())


def _curve(axes: Axes, entries: History, kind: str, group: str) -> None:
    colour, marker, label = _style(group, entries)
    name, epochs = f"mi/{kind}/{group}", _epochs(entries)
    value = _series(entries, f"{name}/lower")
    if kind == "xt":  # its upper bound is the ceiling, which is drawn once
        error = _series(entries, f"{name}/error")
        axes.fill_between(epochs, value - 2 * error, value + 2 * error, color=colour, alpha=0.12, linewidth=0)
    else:
        axes.plot(epochs, _series(entries, f"{name}/upper"), ":", color=colour, linewidth=1)
    axes.plot(epochs, value, color=colour, linewidth=1.2, label=label)
    filled = _series(entries, f"{name}/saturated") == 0
    axes.scatter(epochs, value, s=20, marker=marker, facecolors=np.where(filled, colour, "white"), edgecolors=colour)


def _scatter(axes: Axes, points: np.ndarray) -> None:
    bad = points[:, 3] > 0
    target = points[bad, 2][0] if bad.any() else None
    others = [label for label in np.unique(points[:, 2]) if label != target]
    for shade, label in enumerate(others):
        own = points[points[:, 2] == label]
        axes.scatter(own[:, 0], own[:, 1], s=8, color=GREYS[shade % len(GREYS)], label=f"class {label:.0f}")
    for group, mask in (("target_clean", (points[:, 2] == target) & ~bad), ("backdoor", bad)):
        colour, marker, label = STYLES[group]
        axes.scatter(points[mask, 0], points[mask, 1], s=12, color=colour, marker=marker, label=label)


def _style(group: str, entries: History) -> tuple[str, str, str]:
    if group in STYLES:
        return STYLES[group]
    clean = [name for name in groups_of(entries) if name not in STYLES]
    return GREYS[clean.index(group) % len(GREYS)], ".", f"class {group.removeprefix('clean_')}"


def _measured(history: History) -> list[Mapping[str, Any]]:
    return [entry for entry in history if "mi/samples" in entry["metrics"]]


def _epochs(entries: History) -> list[int]:
    return [entry["epoch"] for entry in entries]


def _series(entries: History, name: str) -> np.ndarray:
    """The metric `name` at every entry, nan where it is missing."""
    return np.array([entry["metrics"].get(name, np.nan) for entry in entries])
