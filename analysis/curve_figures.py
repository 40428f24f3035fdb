"""Figures of a learning-curve sweep: from the table of `analysis.learning_curves.trial_table` to matplotlib Figures."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.learning_curves import NO_GAMMA, Region
from analysis.style import add_legend

MARKS = "os^Dv<>P"
PANELS = 6  # most values of C drawn side by side
PREFIX = {"B": "curve/B/beta_", "K": "curve/K/beta_", "rho": "curve/rho/beta_", "nu": "curve/nu/beta_"}
Floats = NDArray[np.float64]


def draw_all(table: pd.DataFrame, regions: Sequence[Region]) -> dict[str, Figure]:
    """All figures that `table` has the numbers for, by name; one of each kind a data set, trigger and learner."""
    convex = table[table["C"].notna() & (table["poison_rate"] > 0)]
    figures: dict[str, Figure] = {}
    if not convex.empty and "curve/slope" in convex:
        for (data, attack, setting), part in convex.groupby(["data", "attack", "setting"]):
            place = [str(name) for name in (data, attack, setting) if name]
            figures[" ".join(["slopes", *place])] = draw_slopes(part, ", ".join(place))
            for model, cell in part.groupby("model"):
                cell_name, title = " ".join([*place, str(model)]), ", ".join([*place, str(model)])
                figures[f"curves {cell_name}"] = draw_losses(_one_gamma(cell), title)
                figures[f"paths {cell_name}"] = draw_paths(_one_gamma(cell), title)
                if cell["gamma"].nunique() > 1:
                    figures[f"heat {cell_name}"] = draw_heat(cell, title)
    for data, attack in dict.fromkeys((r.setting[0], r.setting[1]) for r in regions):
        selected = [r for r in regions if r.setting[:2] == (data, attack)]
        figures[f"regions {data} {attack}"] = draw_regions(selected, f"{data}, {attack}")
    return figures


def draw_losses(table: pd.DataFrame, title: str) -> Figure:
    """B (full) and K (dashed) over beta: a panel for each C, a line for each poison rate, means over seeds."""
    grid = _subsample(sorted(table["C"].unique()))
    figure = Figure(figsize=(3 * len(grid), 3), dpi=80, layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(grid), sharey=True))
    for axes, c in zip(panels, grid, strict=True):
        for number, (rate, cell) in enumerate(table[table["C"] == c].groupby("poison_rate")):
            for name, line in (("B", "-"), ("K", "--")):
                betas, values = _over_beta(cell, name)
                label = f"p = {rate:g}" if name == "B" else None
                axes.plot(betas, values.mean(0), line, color=f"C{number}", marker="o", markersize=3, label=label)
        _beta_axis(axes, betas)
        axes.set_title(f"C = {c:.3g}", fontsize="medium")
    panels[0].set_ylabel("loss: B full, K dashed")
    add_legend(figure)
    figure.suptitle(title, fontsize="medium")
    return figure


def draw_slopes(table: pd.DataFrame, title: str) -> Figure:
    """Clean accuracy and attack success against -dB/dbeta at 0, a point a trial, a mark a learner."""
    figure = Figure(figsize=(9, 3.6), dpi=80, layout="constrained")
    falling = table[table["curve/slope"] < 0]
    for axes, name in zip(figure.subplots(1, 2), ("attack_success", "accuracy/clean"), strict=True):
        for number, (model, cell) in enumerate(falling.groupby("model")):
            axes.scatter(-cell["curve/slope"], cell[name], s=14, marker=MARKS[number % len(MARKS)], label=model)
        axes.set(xscale="log", xlabel="-dB/dbeta at 0 (exact)", ylabel=name)
    add_legend(figure)
    figure.suptitle(title, fontsize="medium")
    return figure


def draw_paths(table: pd.DataFrame, title: str) -> Figure:
    """rho against nu along beta at the highest poison rate: a line for each C, means over seeds."""
    figure = Figure(figsize=(5.5, 4), dpi=80, layout="constrained")
    axes = figure.subplots()
    highest = table[table["poison_rate"] == table["poison_rate"].max()]
    for c in _subsample(sorted(highest["C"].unique())):
        cell = highest[highest["C"] == c]
        (_, rho), (_, nu) = _over_beta(cell, "rho"), _over_beta(cell, "nu")
        success = cell["attack_success"].mean()
        axes.plot(nu.mean(0), rho.mean(0), marker="o", markersize=3, label=f"lambda = {1 / c:.3g}, ASR {success:.2f}")
    axes.set(xlabel="nu: 0 same direction, 1 opposite", ylabel="rho: norm of the weights", yscale="log")
    add_legend(figure)
    axes.set_title(f"{title}, p = {highest['poison_rate'].iloc[0]:g}", fontsize="medium")
    return figure


def draw_heat(table: pd.DataFrame, title: str) -> Figure:
    """Mean clean accuracy and attack success over C and gamma, at the highest poison rate."""
    figure = Figure(figsize=(10, 3.4), dpi=80, layout="constrained")
    highest = table[table["poison_rate"] == table["poison_rate"].max()]
    for axes, name in zip(figure.subplots(1, 2), ("accuracy/clean", "attack_success"), strict=True):
        grid = highest.pivot_table(index="gamma", columns="C", values=name)
        image = axes.imshow(grid.to_numpy(dtype=float), vmin=0, vmax=1, origin="lower", aspect="auto")
        axes.set_xticks(range(grid.shape[1]), [f"{c:.2g}" for c in grid.columns], rotation=45)
        axes.set_yticks(range(grid.shape[0]), [f"{gamma:.2g}" for gamma in grid.index])
        axes.set(xlabel="C", ylabel="gamma", title=name)
        figure.colorbar(image, ax=axes)
    figure.suptitle(f"{title}, p = {highest['poison_rate'].iloc[0]:g}", fontsize="medium")
    return figure


def draw_regions(regions: Sequence[Region], title: str) -> Figure:
    """Width of the region in decades of C against the poison rate, with its band over seeds: a panel a limit."""
    limits = sorted({region.limit for region in regions})
    figure = Figure(figsize=(4.5 * len(limits), 3.4), dpi=80, layout="constrained")
    for axes, limit in zip(np.atleast_1d(figure.subplots(1, len(limits), sharey=True)), limits, strict=True):
        for model, gamma, others in dict.fromkeys(_line(region) for region in regions):
            selected = [r for r in regions if r.limit == limit and _line(r) == (model, gamma, others)]
            rates = [float(str(region.setting[4])) for region in selected]
            label = f"{model} {others}".strip() if gamma == NO_GAMMA else f"{model} gamma={gamma:g} {others}".strip()
            axes.plot(rates, [region.width for region in selected], marker="o", markersize=4, label=label)
            axes.fill_between(rates, [r.low for r in selected], [r.high for r in selected], alpha=0.15)
        axes.set(xlabel="poison rate", title=f"attack success <= {limit:g}")
    add_legend(figure)
    figure.axes[0].set_ylabel("region, decades of C")
    figure.suptitle(title, fontsize="medium")
    return figure


def _line(region: Region) -> tuple[object, object, object]:
    """Learner, gamma and the other parameters: what a line over the poison rate is of."""
    _, _, model, gamma, _, others = region.setting
    return model, gamma, others


def draw_epoch_curves(histories: Mapping[str, Sequence[Sequence[tuple[int, float]]]], title: str) -> Figure:
    """Attack success over epochs: for each label, its mean over trials, each a list of (epoch, share)."""
    figure = Figure(figsize=(6, 4), dpi=80, layout="constrained")
    axes = figure.subplots()
    for number, (label, trials) in enumerate(histories.items()):
        common = sorted(set.intersection(*({epoch for epoch, _ in trial} for trial in trials)))
        values = np.array([[dict(trial)[epoch] for epoch in common] for trial in trials])
        axes.plot(common, values.mean(0), marker=MARKS[number % len(MARKS)], markersize=4, label=label)
    axes.axhline(0.5, linewidth=0.8, color="grey")
    axes.set(xlabel="epoch", ylabel="attack success", xscale="log", ylim=(-0.03, 1.03), title=title)
    add_legend(figure)
    return figure


def _over_beta(table: pd.DataFrame, name: str) -> tuple[Floats, Floats]:
    """The betas (B,), ascending, and the values (trials, B) of the metric `name` of trials that have them all."""
    start = PREFIX[name]
    columns = {float(c.removeprefix(start)): c for c in map(str, table) if c.startswith(start)}
    betas = [beta for beta in sorted(columns) if table[columns[beta]].notna().any()]
    values = table[[columns[beta] for beta in betas]].dropna().to_numpy(dtype=float)
    return np.array(betas), values


def _beta_axis(axes: Axes, betas: Floats) -> None:
    axes.set_xscale("symlog", linthresh=float(betas[betas > 0].min()))
    axes.set(xlabel="beta", xlim=(0, None))


def _one_gamma(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the middle gamma, where there are several."""
    gammas = sorted(table["gamma"].unique())
    return table.query("gamma == @gamma", local_dict={"gamma": gammas[len(gammas) // 2]})


def _subsample(values: Sequence[float]) -> list[float]:
    """At most PANELS of `values`, evenly chosen, the ends among them."""
    index = np.linspace(0, len(values) - 1, min(PANELS, len(values))).round().astype(int)
    return [values[i] for i in dict.fromkeys(index.tolist())]
