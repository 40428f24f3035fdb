"""How well does each attack take hold? Every attack x poison rate x seed, undefended, as the table of docs/attacks.md.

python sweeps/attacks.py                      digits, five seeds
python sweeps/attacks.py --preset fashion     Fashion-MNIST, three seeds
"""

import sys
from pathlib import Path

from analysis.attack_table import attack_table
from raybd.command_line.command import main
from raybd.command_line.options import SweepOptions
from raybd.tracking import load_runs
from raybd.utils.summary_folder import SummaryFolder

RATES = (0.0, 0.01, 0.05, 0.1)
PRESETS = {
    "quick": SweepOptions.of(
        name="attacks", attacks=("all",), poison_rates=RATES, seeds=5, weight_decays=(5e-4,), widths=(1.0,)
    ),
    "fashion": SweepOptions.of(
        preset="fashion",
        name="attacks-fashion",
        data="fashion_mnist",
        attacks=("all",),
        poison_rates=RATES,
        seeds=3,
        weight_decays=(5e-4,),
        widths=(0.5,),
        epochs=(3,),
        batch_sizes=(128,),
        probes=(3,),
    ),
}


def summarise(name: str, tracking_uri: str, folder: SummaryFolder) -> tuple[str, list[Path]]:
    """The table, for the terminal and as a file."""
    table = attack_table(load_runs(name, tracking_uri))
    path = folder / "attacks.md"
    path.write_text(table + "\n")
    return table, [path]


if __name__ == "__main__":
    sys.exit(main(PRESETS, summarise))
