"""Names of attacks in tables, from the runs of a sweep as `raybd.tracking.load_runs` gives them."""

import pandas as pd


def attack_names(runs: pd.DataFrame) -> "pd.Series[str]":
    """Each run's attack, with those of its settings that differ between runs of the same attack."""
    names = runs["params.attack.name"].astype(str)
    for column in [str(name) for name in runs if str(name).startswith("params.attack.") and name != names.name]:
        varies = runs[column].groupby(runs["params.attack.name"]).transform("nunique") > 1
        setting = " " + column.rpartition(".")[2] + "=" + runs[column].astype(str)
        names = names.where(~varies, names + setting)
    return names
