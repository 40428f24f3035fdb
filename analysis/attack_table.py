"""The table of attacks, from the runs of a sweep as `raybd.tracking.load_runs` gives them."""

import pandas as pd

from analysis.grouping import ATTACK, RATE, group_runs, metric_values
from analysis.text_table import format_mean_std
from raybd.utils.metric_names import ACCURACY, ATTACK_SUCCESS, ROBUST_ACCURACY

SHARES = (ACCURACY, ATTACK_SUCCESS, ROBUST_ACCURACY)


def attack_table(runs: pd.DataFrame) -> str:
    """Markdown: each attack's clean accuracy, success and robust accuracy at each setting, mean ± deviation.

    In % over the seeds; the deviation is that of a single seed. "twin ASR" is the success of the same trigger on
    networks trained at the same setting without poison.
    """
    groups = group_runs(runs[runs["status"] == "FINISHED"])
    if not groups:
        return ""
    twins = {group.key({RATE}): metric_values(group.runs, ATTACK_SUCCESS) for group in groups if group.rate == 0}
    names = [name for name in groups[0].setting if name not in (ATTACK, RATE)]
    heads = [ATTACK, RATE, *names, "seeds", "ACC %", "ASR %", "RA %", "twin ASR %"]
    lines = [f"| {' | '.join(heads)} |", "| --- " + "| ---: " * (len(heads) - 1) + "|"]
    for group in groups:
        if group.rate > 0:
            columns = [metric_values(group.runs, name) for name in SHARES]
            shares = [*map(list, columns), list(twins.get(group.key({RATE}), []))]
            cells = [*group.cells(), str(group.seeds), *map(format_mean_std, shares)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
