"""Names of attacks in tables, from the runs of a sweep as `raybd.tracking.load_runs` gives them."""

import pandas as pd


def attack_names(runs: pd.DataFrame) -> "pd.Series[str]":
    """Each run's attack, with those of its settings that differ between runs of the same attack."""
    names = runs["params.attack.name"].astype(str)
    for column in [str(name) for name in runs if str(name).startswith("params.attack.") and name != names.name]:
        value = runs[column].astype(object).where(runs[column].notna(), "-").astype(str)  # "-": it has no such setting
        varies = value.groupby(runs["params.attack.name"]).transform("nunique") > 1
        setting = " " + column.rpartition(".")[2] + "=" + value
        names = names.where(~varies, names + setting)
    return names
