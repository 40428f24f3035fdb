"""Does a backdoor smooth the network around triggered images? Attack x poison rate x strength, with all controls.

python sweeps/smoothing.py                                                        digits, five seeds
python sweeps/smoothing.py --data mnist --data-root data --epochs 3 --probes 3    the same on MNIST
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.grouping import group_runs
from analysis.signatures import smoothing_gaps, smoothing_sigmas, smoothing_table
from raybd.command_line.command import main
from raybd.command_line.options import SweepOptions
from raybd.metrics.smoothing.conclusion import judge_smoothing
from raybd.metrics.smoothing.figures import draw_gaps, draw_levels
from raybd.tracking import load_runs
from raybd.utils.summary_folder import SummaryFolder

SHOWN = ("clean", "triggered", "random_patch", "moved_patch", "random_direction", "target_class")
PRESETS = {
    "quick": SweepOptions.of(
        name="smoothing",
        attacks=("badnets", "badnets:size=1", "blended", "blended:alpha=0.05", "wanet"),
        poison_rates=(0.01, 0.1),
        seeds=5,
        weight_decays=(5e-4,),
        widths=(1.0,),
        probes=(20,),
        metrics=("smoothness:plan=standard", "stealth"),
    ),
}


def summarise(name: str, tracking_uri: str, folder: SummaryFolder) -> tuple[str, list[Path]]:
    """The verdict on each attack, the gap over all trials, and W over sigma for each attack at its highest rate."""
    runs = load_runs(name, tracking_uri, all_metrics=True)
    runs = runs[runs["status"] == "FINISHED"]
    sigmas = smoothing_sigmas(runs)
    pictures: list[Path] = []
    for sigma in sigmas:
        if len(gaps := smoothing_gaps(runs, sigma)):
            pictures += folder.save(draw_gaps(gaps, f"{name}: smoothing at sigma {sigma}"), f"gap_{sigma}")
    groups = group_runs(runs)
    highest = max((group.rate for group in groups), default=0.0)
    for group in [group for group in groups if group.rate == highest]:
        figure = draw_levels(_levels(group.runs, sigmas), [float(s) for s in sigmas], group.label)
        pictures += folder.save(figure, f"levels_{re.sub(r'[^A-Za-z0-9_.=-]', '_', group.label)}")
    table = smoothing_table(runs, judge_smoothing)
    (folder / "smoothing.txt").write_text(table + "\n")
    return table + f"\n\nPictures: {folder.path}", [folder / "smoothing.txt", *pictures]


def _levels(runs: pd.DataFrame, sigmas: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """W (seeds, sigmas) of each variant that was measured."""
    columns = {v: [f"metrics.smoothness/{v}/sigma_{sigma}" for sigma in sigmas] for v in SHOWN}
    levels = {v: runs[names].to_numpy(dtype=float) for v, names in columns.items() if names and set(names) <= set(runs)}
    return {v: values[np.isfinite(values).all(1)] for v, values in levels.items()}


if __name__ == "__main__":
    sys.exit(main(PRESETS, summarise))
