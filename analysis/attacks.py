"""Tables of attacks, from the runs of a sweep as `raybd.tracking.load_runs` gives them."""

import pandas as pd

from analysis.text_table import format_mean_std

SHARES = ("accuracy/clean", "attack_success", "accuracy/robust")


def attack_names(runs: pd.DataFrame) -> "pd.Series[str]":
    """Each run's attack, with those of its settings that differ between runs of the same attack."""
    names = runs["params.attack.name"].astype(str)
    for column in [str(name) for name in runs if str(name).startswith("params.attack.") and name != names.name]:
        varies = runs[column].groupby(runs["params.attack.name"]).transform("nunique") > 1
        setting = " " + column.rpartition(".")[2] + "=" + runs[column].astype(str)
        names = names.where(~varies, names + setting)
    return names


def setting_names(runs: pd.DataFrame) -> "pd.Series[str]":
    """Each run's attack as `attack_names` has it, and the defence that it met where there is one."""
    names = attack_names(runs)
    if "params.defence.name" not in runs:
        return names
    defences = runs["params.defence.name"].fillna("none").astype(str)
    return names.where(defences == "none", names + " / " + defences)


def attack_table(runs: pd.DataFrame) -> str:
    """Markdown: each attack's clean accuracy, success and robust accuracy at each poison rate, mean ± deviation.

    In % over the seeds; the deviation is that of a single seed. "twin ASR" is the success of the same trigger on
    networks trained without poison.
    """
    done = runs[runs["status"] == "FINISHED"]
    rates = done["params.poison_rate"].astype(float)
    names = attack_names(done)
    twins = done[rates == 0].groupby(names[rates == 0])["metrics.attack_success"].apply(list).to_dict()
    lines = ["| attack | rate | seeds | ACC % | ASR % | RA % | twin ASR % |", "| --- " + "| ---: " * 6 + "|"]
    for (attack, rate), cell in done[rates > 0].groupby([names, rates]):
        shares = [*(cell[f"metrics.{name}"].tolist() for name in SHARES), twins.get(attack, [])]
        seeds = cell["params.seed"].nunique()
        lines.append(f"| {attack} | {rate:.3g} | {seeds} | {' | '.join(map(format_mean_std, shares))} |")
    return "\n".join(lines)
