"""How fast is a backdoor learnt, and how wide is the region without one? Pairs x learners x C x rates x sizes x seeds.

python sweeps/learning_curves.py                                             digits 7 and 1
python sweeps/learning_curves.py --models small_cnn --pairs --labels all_to_one --weight-decays 0.0005 0.05   networks
python sweeps/learning_curves.py --preset paper --data mnist --pairs 7-1 --models ridge svm logistic \\
    --trigger-size 3 --poison-rates 0.1 --compare ridge_pair7-1.csv          the authors' rows, bit for bit
"""

import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.curve_compare import compare_published
from analysis.curve_figures import draw_all, draw_epoch_curves
from analysis.learning_curves import beta_cells, beta_table, region_table, regions, trial_table
from raybd.command_line.command import main
from raybd.command_line.curve_grid import expand_curves
from raybd.command_line.curve_options import CurveOptions
from raybd.command_line.options import parse_options
from raybd.convex.region import region_width, region_width_band
from raybd.errors import InputError
from raybd.tracking import load_runs
from raybd.trials.records import SweepFolder
from raybd.utils.summary_folder import SummaryFolder

BETAS = tuple(b / 100 for b in (0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 19, 24, 29, 36, 44, 54, 66, 81, 99))
PRESETS = {
    "quick": CurveOptions.of(),
    "paper": CurveOptions.of(  # arXiv 2106.07214, MNIST, as in the authors' result files
        preset="paper",
        name="learning_curves-paper",
        data="mnist",
        pairs=("7-1", "3-0", "5-2"),
        Cs=tuple(np.geomspace(1e-4, 1e3, 10).tolist()),
        Cs_rbf=tuple(np.geomspace(0.1, 100, 10).tolist()),
        gammas=tuple(np.geomspace(5e-4, 5e-2, 5).tolist()),
        trigger_size=(3, 6),
        poison_rates=(0.0, 0.1),
        seed_values=(1, 10, 11, 100, 101),
        recipe="published",
        betas=BETAS,
    ),
}


def summarise(
    name: str, tracking_uri: str, folder: SummaryFolder, compare: Sequence[Path] = ()
) -> tuple[str, list[Path]]:
    """Region widths, what networks' betas show, differences to the authors' files; all figures."""
    table = trial_table(load_runs(name, tracking_uri, all_metrics=True))
    areas = regions(table, region_width, region_width_band)
    cells = beta_table(beta_cells(table))
    parts = {
        "Region of clean accuracy within 0.02 of the best, by attack success, in decades of C [90 % over seeds]": (
            region_table(areas)
        ),
        "Networks over beta (weight of the poison), mean ± deviation over seeds": cells,
        "Differences to the authors' files": "\n\n".join(compare_published(table, path) for path in compare),
    }
    text = "\n\n".join(f"{title}\n{part}" for title, part in parts.items() if part)
    (folder / "learning_curves.txt").write_text(text + "\n")
    figures = draw_all(table, areas) | _epoch_figures(table, folder.path)
    return text + f"\n\nFigures: {folder / 'figures'}", [folder / "learning_curves.txt", *_save(figures, folder)]


def _epoch_figures(table: pd.DataFrame, folder: Path) -> dict[str, Figure]:
    """Attack success of networks over epochs, from the histories on this disk: one figure a data set."""
    nets = table[table["C"].isna() & (table["poison_rate"] > 0) & (table["beta"] == 1)]
    figures = {}
    for data, part in nets.groupby("data"):
        lines: defaultdict[str, list[list[tuple[int, float]]]] = defaultdict(list)
        for _, row in part.iterrows():
            history = SweepFolder(folder).trial(row["key"]).history()
            curve = [(e["epoch"], e["metrics"]["attack_success"]) for e in history if "attack_success" in e["metrics"]]
            if curve:
                lines[f"{row['attack']} p={row['poison_rate']:g} {row['setting']}"].append(curve)
        if lines:
            figures[f"epochs {data}"] = draw_epoch_curves(lines, str(data))
    return figures


def _save(figures: dict[str, Figure], folder: SummaryFolder) -> list[Path]:
    (folder / "figures").mkdir(exist_ok=True)
    inside, paths = replace(folder, path=folder / "figures"), []
    for name, figure in figures.items():
        file_name = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
        paths += inside.save(figure, file_name)
    return paths


def run(args: Sequence[str] | None = None) -> int:
    """The sweep that `args` ask for; the exit status."""
    given = list(sys.argv[1:] if args is None else args)
    compare: Sequence[Path] = ()
    with suppress(InputError):  # `main` reports it
        compare = parse_options(PRESETS, given).curves.compare
    return main(PRESETS, partial(summarise, compare=compare), given, expand=expand_curves)


if __name__ == "__main__":
    sys.exit(run())
