"""Tables of defences: attack x defence, over seeds, from the runs of a sweep."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.grouping import RATE, metric_values, setting_columns
from analysis.text_table import align_columns, format_cell, format_mean_std
from raybd.utils.metric_names import ACCURACY, ATTACK_SUCCESS, ROBUST_ACCURACY, SECONDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RATES = {"ACC": ACCURACY, "ASR": ATTACK_SUCCESS, "RA": ROBUST_ACCURACY}
THREAT = ["attack", "poison_rate"]
NUMBERS = ("defence", "seed", "ACC", "ASR", "RA", "DER", "RIR", "seconds", "precision", "recall")


def compare_defences(
    runs: pd.DataFrame, defences: Mapping[str, Mapping[str, object]], attacks: Iterable[str] | None = None
) -> pd.DataFrame:
    """The finished trials of the named `defences` (name -> their settings, as params say them; None: that the trial
    has no such setting), one row each.

    Columns: defence; attack, poison_rate and every other parameter that varies besides the defence; seed; ACC, ASR, RA
    in [0, 1]; DER and RIR against the trial without a defence of the same setting and seed; seconds; and precision
    and recall of what the defence flagged as poison. DER is the `effectiveness` of the fall of ASR, RIR that of the
    rise of RA.
    """
    done = runs[runs["status"] == "FINISHED"]
    chosen = [(name, done[_has_settings(done, settings)]) for name, settings in defences.items()]
    met = pd.concat([part for _, part in chosen], ignore_index=True)
    setting = setting_columns(met, ("defence.",)).rename(columns={RATE: "poison_rate"})
    names = [name for name, part in chosen for _ in range(len(part))]
    scores = {score: metric_values(met, f"defence/{score}") for score in ("precision", "recall")}
    rates = {heading: metric_values(met, name) for heading, name in RATES.items()}
    more = {"seed": met["params.seed"].astype(int), **rates, "seconds": metric_values(met, SECONDS)}
    table = pd.concat([pd.DataFrame({"defence": names}), setting, pd.DataFrame(more | scores)], axis=1)
    table = table if attacks is None else table[table["attack"].isin([*attacks, "none"])]
    return _with_effectiveness(table)


def _has_settings(runs: pd.DataFrame, settings: Mapping[str, object]) -> "pd.Series[bool]":
    matches = pd.Series(True, runs.index)
    for key, value in settings.items():
        column = runs.get(f"params.defence.{key}")
        if value is None:
            matches &= column.isna() if column is not None else True
        else:
            matches &= (column == str(value)) if column is not None else False
    return matches


def effectiveness(gain: "pd.Series[float]", accuracy_loss: "pd.Series[float]") -> "pd.Series[float]":
    """BackdoorBench's effectiveness of a defence, (max(0, gain) - max(0, accuracy loss) + 1) / 2, in [0, 1].

    With the sign as published and not as in its code: 1/2 where nothing changes, more where the defence does good.
    """
    return (gain.clip(lower=0) - accuracy_loss.clip(lower=0) + 1) / 2


def _with_effectiveness(table: pd.DataFrame) -> pd.DataFrame:
    cell = table[[*setting_of(table), "seed"]].astype(str).agg(" | ".join, axis=1) if len(table) else ""
    table = table.assign(cell=cell)
    plain = table[table["defence"] == "none"].drop_duplicates("cell")[["cell", "ACC", "ASR", "RA"]]
    table = table.merge(plain, on="cell", how="left", suffixes=("", "_0"))
    loss = table["ACC_0"] - table["ACC"]
    table["DER"] = effectiveness(table["ASR_0"] - table["ASR"], loss)
    table["RIR"] = effectiveness(table["RA"] - table["RA_0"], loss)
    return table.drop(columns=["ACC_0", "ASR_0", "RA_0", "cell"])


def setting_of(table: pd.DataFrame) -> list[str]:
    """The columns of `compare_defences` that tell a trial's setting: attack, poison_rate, and what else varies."""
    return [name for name in map(str, table) if name not in NUMBERS]


def defence_ranking(table: pd.DataFrame, access: Mapping[str, str]) -> str:
    """Table of `compare_defences`, a line a defence, best mean DER first: what it needs and costs, ACC / ASR by attack.

    A line for each value of other parameters that vary. All in %, means over attacks and seeds; the deviation by attack
    is over seeds. The clean twins' accuracy stands under "no poison": what the defence costs where there is nothing to
    defend against.
    """
    others = [name for name in setting_of(table) if name not in THREAT]
    poisoned = table[table["poison_rate"] > 0]
    attacks = list(poisoned[THREAT].drop_duplicates().itertuples(index=False, name=None))
    heads = ["defence", *others, "needs", "seconds", "DER", "RIR", "precision", "recall", "no poison"]
    lines = [[*heads, *(f"{attack} {rate:g}" for attack, rate in attacks)]]
    order = poisoned.groupby(["defence", *others], dropna=False)["DER"].mean()
    for at in order.sort_values(ascending=False, kind="stable").index:
        place = dict(zip(["defence", *others], at if others else [at], strict=True))
        lines.append(_ranking_line(_at(table, place), place, attacks, access))
    return align_columns(lines)


def _ranking_line(
    part: pd.DataFrame, place: Mapping[str, object], attacks: Sequence[tuple[str, float]], access: Mapping[str, str]
) -> list[str]:
    name, *others = place.values()
    poisoned, clean = part[part["poison_rate"] > 0], part[part["poison_rate"] == 0]
    cells = [_at(poisoned, dict(zip(THREAT, attack, strict=True))) for attack in attacks]
    means = [_percent(poisoned[column].mean()) for column in ("DER", "RIR", "precision", "recall")]
    needs, seconds = access.get(str(name), "-"), f"{poisoned['seconds'].mean():.1f}"
    heads = [str(name), *map(format_cell, others), needs, seconds]
    return [*heads, *means, format_mean_std(clean["ACC"].tolist()), *map(_shares, cells)]


def _at(table: pd.DataFrame, place: Mapping[str, object]) -> pd.DataFrame:
    """The rows at the values of `place`, where NaN is a value too."""
    mask = pd.Series(True, table.index)
    for name, value in place.items():
        mask &= table[name].isna() if pd.isna(value) else table[name] == value  # type: ignore[call-overload]
    return table[mask]


def _shares(cell: pd.DataFrame) -> str:
    return f"{format_mean_std(cell['ACC'].tolist())} / {format_mean_std(cell['ASR'].tolist())}"


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.1f}"


def defence_table(table: pd.DataFrame, held_out: Sequence[str] = ()) -> str:
    """Table of `compare_defences`, a line a setting: ACC / ASR of each defence in %, mean ± deviation over seeds."""
    names, setting = list(dict.fromkeys(table["defence"])), setting_of(table)
    lines = [["attack", "rate", *setting[len(THREAT) :], "seeds", *names]]
    for at, cell in table.groupby(setting, sort=False, dropna=False):
        parts = [cell[cell["defence"] == name] for name in names]
        attack, *others = at
        mark = " *" if attack in held_out else ""
        seeds = str(max(part["seed"].nunique() for part in parts))
        lines.append([f"{attack}{mark}", *map(format_cell, others), seeds, *map(_shares, parts)])
    worst = [_worst(table[table["defence"] == name], setting) for name in names]
    lines += [["worst", *("" for _ in setting), *worst]]
    text = align_columns(lines)
    return text + ("\n* never seen by the search" if held_out else "")


def _worst(part: pd.DataFrame, setting: list[str]) -> str:
    means = part[part["poison_rate"] > 0].groupby(setting, dropna=False)[["ACC", "ASR"]].mean()
    return f"{100 * means['ACC'].min():.1f} / {100 * means['ASR'].max():.1f}" if len(means) else "-"


def defence_figure(table: pd.DataFrame, held_out: Sequence[str] = ()) -> "Figure":
    """Two heat maps, ASR and clean accuracy in %, defence x setting, with the mean over seeds written in each cell."""
    from matplotlib.figure import Figure  # slow to import, and only drawing needs it

    names, setting = list(dict.fromkeys(table["defence"])), setting_of(table)
    cells = list(table.groupby(setting, sort=False, dropna=False))
    labels = [_label(at, held_out) for at, _ in cells]
    figure = Figure(figsize=(3 + 1.4 * len(cells), 1.8 + 0.36 * len(names)), dpi=80, layout="constrained")
    panels = (("ASR", "attack success %", "Reds"), ("ACC", "clean accuracy %", "Blues"))
    for axes, (column, title, colours) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        grid = np.array(
            [[100 * cell.loc[cell["defence"] == name, column].mean() for _, cell in cells] for name in names]
        )
        axes.imshow(grid, cmap=colours, vmin=0, vmax=100, aspect="auto")
        axes.set_xticks(range(len(cells)), labels, rotation=30, ha="right")
        axes.set_title(title, fontsize="medium")
        _write_numbers(axes, grid)
    figure.axes[0].set_yticks(range(len(names)), names)
    return figure


def _label(at: Sequence[object], held_out: Sequence[str]) -> str:
    attack, *others = at
    return " ".join([f"{attack}{' *' if attack in held_out else ''}", *map(format_cell, others)])


def _write_numbers(axes: "Axes", grid: NDArray[np.float64]) -> None:
    for place, value in np.ndenumerate(grid):
        if np.isfinite(value):
            shade = "white" if value > 60 else "black"
            axes.text(place[1], place[0], f"{value:.1f}", ha="center", va="center", color=shade, fontsize="small")
