"""Every defence before the same poisoned sets, seeds and self-supervised features: attack x defence, with its cost.

python sweeps/defences.py                                            digits, six attacks, three seeds
python sweeps/defences.py --defences none vibe abl clp --seeds 5     some of them
"""

import sys
from pathlib import Path

from analysis.defences import compare_defences, defence_figure, defence_ranking
from raybd.command_line import grid
from raybd.command_line.command import main
from raybd.command_line.options import SweepOptions
from raybd.defences import DEFENCES
from raybd.plugins import find
from raybd.tracking import load_runs
from raybd.trials.config import TrialConfig
from raybd.utils.summary_folder import SummaryFolder
from sweeps import _sok

PRESETS = {
    "quick": SweepOptions.of(
        name="defences",
        attacks=("badnets", "blended", "wanet", "low_frequency", "adaptive_blend", "adaptive_patch"),  # these take hold
        poison_rates=(0.0, 0.09),
        defences=tuple(DEFENCES),
        validation=0.06,  # the clean images of those that need some: 5 % of the training set
        seeds=3,
        weight_decays=(5e-4,),
        widths=(0.5,),
    ),
    "sok": _sok.preset(name="defences", defences=tuple(DEFENCES), validation=0.06),  # arXiv 2511.13143
}


def expand(options: SweepOptions) -> list[TrialConfig]:
    """Every defence against every attack; a clean twin is trained once for each defence and not for each attack too."""
    return grid.share_twins(grid.expand(options))


def summarise(name: str, tracking_uri: str, folder: SummaryFolder) -> tuple[str, list[Path]]:
    """A line a defence, the picture of attack x defence, and all trials as CSV."""
    runs = load_runs(name, tracking_uri)
    seen = set(runs["params.defence.name"].dropna())
    met = [*(text for text in DEFENCES if text in seen), *sorted(seen - set(DEFENCES))]
    table = compare_defences(runs, {text: {"name": text} for text in met})
    table.to_csv(folder / "defences.csv", index=False)
    pictures = folder.save(defence_figure(table), "defences")
    text = defence_ranking(table, {text: find("defence", DEFENCES, text).access for text in met})
    (folder / "defences.txt").write_text(text + "\n")
    return text, [folder / "defences.csv", *pictures, folder / "defences.txt"]


if __name__ == "__main__":
    sys.exit(main(PRESETS, summarise, expand=expand, notes=_sok.notes))
