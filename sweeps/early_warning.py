"""Do measures taken early foretell whether a backdoor takes hold? Attacks x rates x complexity, measured densely.

python sweeps/early_warning.py                    digits, eleven attacks, three seeds
python sweeps/early_warning.py --preset fashion   eight of them on 1,000 images of Fashion-MNIST at 14 x 14
"""

import sys
from pathlib import Path

from analysis import DefendedRegionMap, signal
from analysis.records import canonical_frame
from analysis.signal.text import signal_text
from raybd.command_line import grid
from raybd.command_line.command import main
from raybd.command_line.options import SweepOptions
from raybd.tracking import load_histories, load_runs
from raybd.trials.config import TrialConfig
from raybd.utils.summary_folder import SummaryFolder

ATTACKS = (
    *("badnets", "blended", "wanet", "ftrojan", "sig:delta=80", "low_frequency", "adaptive_blend", "bpp", "tact"),
    *("ctrl", "label_consistent"),
)
METRICS = (
    "defender",
    "mutual_information:epochs=[2,4],passes=8,classes=1",
    'smoothness:points=50,sigmas=[0.5],variants=["triggered"]',
    "stealthiness",
    "stealth",
    "learning_curves",
)
RATES = (0.0, 0.003, 0.01, 0.03, 0.08)  # more is the whole target class of clean-label attacks
PROBES = (1, 2, 3, 4, 8, 20)
QUICK = SweepOptions.of(
    name="early_warning",
    attacks=ATTACKS,
    poison_rates=RATES,
    weight_decays=(5e-4, 0.03),
    widths=(1.0,),
    epochs=(20,),
    seeds=3,
    noise=0.1,
    probes=PROBES,
    metrics=METRICS,
    figures="none",
)
PRESETS = {
    "quick": QUICK,
    "fashion": QUICK.replace(
        preset="fashion",
        name="early_warning-fashion",
        attacks=ATTACKS[:8],
        data="fashion_mnist[0,1,2,3,4,5,6,7,8,9;1000]",
        resize=14,
        widths=(0.5,),
    ),
}


def expand(options: SweepOptions) -> list[TrialConfig]:
    """Every attack, with clean trials that are trained once for all of them."""
    return grid.share_twins(grid.expand(options))


def summarise(name: str, tracking_uri: str, folder: SummaryFolder) -> tuple[str, list[Path]]:
    """What each measure tells, as text, as a table, and the observations from which both can be made again."""
    runs = load_runs(name, tracking_uri)
    region_map = DefendedRegionMap.from_frame(canonical_frame(runs))
    observations = signal.observe(load_histories(name, tracking_uri), region_map)
    table = signal.signal_table(observations)
    files = [signal.write_observations(observations, folder / "observations.csv.gz"), folder / "signal.csv"]
    table.to_csv(files[1], index=False)
    places = f"All measures:  {files[1]}\nAgain:         raybd signal {files[0]}"
    return f"{signal_text(observations, table)}\n\n{places}", files


if __name__ == "__main__":
    sys.exit(main(PRESETS, summarise, expand=expand))
