"""Tables of defences: attack x defence, over seeds, from the runs of a sweep."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis.attacks import attack_names
from analysis.text_table import align_columns, format_mean_std

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACC, ASR, RA = "metrics.accuracy/clean", "metrics.attack_success", "metrics.accuracy/robust"


def compare_defences(
    runs: pd.DataFrame, defences: Mapping[str, Mapping[str, object]], attacks: Iterable[str] | None = None
) -> pd.DataFrame:
    """The finished trials of the named `defences` (name -> their settings, as params say them), one row each.

    Columns: defence, attack, poison_rate, seed, ACC, ASR, RA in [0, 1]; DER and RIR against the undefended trial of
    the same attack, rate and seed; seconds; and precision and recall of what the defence flagged as poison.
    DER is the `effectiveness` of the fall of ASR, RIR that of the rise of RA.
    """
    done = runs[runs["status"] == "FINISHED"].copy()
    done["attack"] = attack_names(done)
    parts = []
    for name, settings in defences.items():
        matches = np.ones(len(done), bool)
        for key, value in settings.items():
            column = done.get(f"params.defence.{key}")
            matches &= (column == str(value)).to_numpy() if column is not None else False
        part = done[matches]
        columns = {"attack": part["attack"], "poison_rate": part["params.poison_rate"].astype(float)}
        columns |= {"seed": part["params.seed"].astype(int), "ACC": part[ACC], "ASR": part[ASR], "RA": part[RA]}
        columns |= {"seconds": part["metrics.seconds/trial"]}
        for score in ("precision", "recall"):
            columns[score] = part.get(f"metrics.defence/{score}", pd.Series(np.nan, part.index))
        parts.append(pd.DataFrame({"defence": name} | columns))
    table = pd.concat(parts, ignore_index=True)
    table = table if attacks is None else table[table["attack"].isin([*attacks, "none"])]
    return _with_effectiveness(table)


def effectiveness(gain: "pd.Series[float]", accuracy_loss: "pd.Series[float]") -> "pd.Series[float]":
    """BackdoorBench's effectiveness of a defence, (max(0, gain) - max(0, accuracy loss) + 1) / 2, in [0, 1].

    With the sign as published and not as in its code: 1/2 where nothing changes, more where the defence does good.
    """
    return (gain.clip(lower=0) - accuracy_loss.clip(lower=0) + 1) / 2


def _with_effectiveness(table: pd.DataFrame) -> pd.DataFrame:
    cell = ["attack", "poison_rate", "seed"]
    undefended = table[table["defence"] == "none"].drop_duplicates(cell)[[*cell, "ACC", "ASR", "RA"]]
    table = table.merge(undefended, on=cell, how="left", suffixes=("", "_0"))
    loss = table["ACC_0"] - table["ACC"]
    table["DER"] = effectiveness(table["ASR_0"] - table["ASR"], loss)
    table["RIR"] = effectiveness(table["RA"] - table["RA_0"], loss)
    return table.drop(columns=["ACC_0", "ASR_0", "RA_0"])


def defence_ranking(table: pd.DataFrame, access: Mapping[str, str]) -> str:
    """Table of `compare_defences`, a line a defence, best mean DER first: what it needs and costs, ACC / ASR by attack.

    All in %, means over attacks and seeds; the deviation by attack is over seeds. The clean twins' accuracy stands
    under "no poison": what the defence costs where there is nothing to defend against.
    """
    poisoned = table[table["poison_rate"] > 0]
    attacks = list(dict.fromkeys(zip(poisoned["attack"], poisoned["poison_rate"], strict=True)))
    order = poisoned.groupby("defence")["DER"].mean().sort_values(ascending=False, kind="stable").index
    named = [f"{attack} {rate:g}" for attack, rate in attacks]
    lines = [["defence", "needs", "seconds", "DER", "RIR", "precision", "recall", "no poison", *named]]
    for name in order:
        part, clean = (half[half["defence"] == name] for half in (poisoned, table[table["poison_rate"] == 0]))
        cells = [part[(part["attack"] == a) & (part["poison_rate"] == r)] for a, r in attacks]
        means = [_percent(part[column].mean()) for column in ("DER", "RIR", "precision", "recall")]
        shares = [_shares(cell) for cell in cells]
        seconds = f"{part['seconds'].mean():.1f}"
        lines.append([str(name), access.get(str(name), "-"), seconds, *means, format_mean_std(clean["ACC"]), *shares])
    return align_columns(lines)


def _shares(cell: pd.DataFrame) -> str:
    return f"{format_mean_std(cell['ACC'].tolist())} / {format_mean_std(cell['ASR'].tolist())}"


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.1f}"


def defence_table(table: pd.DataFrame, held_out: Sequence[str] = ()) -> str:
    """Table of `compare_defences`, a line an attack and rate: ACC / ASR of each defence in %, mean ± deviation."""
    names = list(dict.fromkeys(table["defence"]))
    lines = [["attack", "rate", "seeds", *names]]
    for (attack, rate), cell in table.groupby(["attack", "poison_rate"], sort=False):
        parts = [cell[cell["defence"] == name] for name in names]
        mark = " *" if attack in held_out else ""
        seeds = str(max(len(part) for part in parts))
        lines.append(
            [
                f"{attack}{mark}",
                f"{rate:g}",
                seeds,
                *(f"{format_mean_std(c['ACC'])} / {format_mean_std(c['ASR'])}" for c in parts),
            ]
        )
    worst = [_worst(table[table["defence"] == name]) for name in names]
    lines += [["worst", "", "", *worst]]
    text = align_columns(lines)
    return text + ("\n* never seen by the search" if held_out else "")


def _worst(part: pd.DataFrame) -> str:
    means = part[part["poison_rate"] > 0].groupby(["attack", "poison_rate"])[["ACC", "ASR"]].mean()
    return f"{100 * means['ACC'].min():.1f} / {100 * means['ASR'].max():.1f}" if len(means) else "-"


def defence_figure(table: pd.DataFrame, held_out: Sequence[str] = ()) -> "Figure":
    """Two heat maps, ASR and clean accuracy in %, defence x attack, with the mean over seeds written in each cell."""
    from matplotlib.figure import Figure  # slow to import, and only drawing needs it

    names = list(dict.fromkeys(table["defence"]))
    cells = list(dict.fromkeys(zip(table["attack"], table["poison_rate"], strict=True)))
    labels = [f"{attack}{' *' if attack in held_out else ''} {rate:g}" for attack, rate in cells]
    figure = Figure(figsize=(3 + 1.4 * len(cells), 1.8 + 0.36 * len(names)), dpi=80, layout="constrained")
    panels = (("ASR", "attack success %", "Reds"), ("ACC", "clean accuracy %", "Blues"))
    for axes, (column, title, colours) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        means = table.groupby(["attack", "poison_rate", "defence"])[column].mean()
        grid = np.array([[100 * means.get((*cell, name), np.nan) for cell in cells] for name in names])
        axes.imshow(grid, cmap=colours, vmin=0, vmax=100, aspect="auto")
        axes.set_xticks(range(len(cells)), labels, rotation=30, ha="right")
        axes.set_title(title, fontsize="medium")
        for place, value in np.ndenumerate(grid):
            if np.isfinite(value):
                shade = "white" if value > 60 else "black"
                axes.text(place[1], place[0], f"{value:.1f}", ha="center", va="center", color=shade, fontsize="small")
    figure.axes[0].set_yticks(range(len(names)), names)
    return figure
