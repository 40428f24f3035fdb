"""Where does a backdoor not take hold? Attack x poison rate x complexity x seed, with clean twins, as a map.

python sweeps/ib.py                                       digits, on this machine
python sweeps/ib.py --data cifar10 --model resnet18       on the Ray that runs here, or a new one
"""

import sys
from pathlib import Path

from analysis import DefendedRegionMap
from analysis.plots import plot_map
from analysis.table import summary
from raybd.sweep.command import main
from raybd.sweep.options import SweepOptions

PRESETS = {
    "quick": SweepOptions(),
    "paper": SweepOptions(  # arXiv 2511.21923: ResNet-18 on CIFAR-10, 120 epochs of batches of 256
        preset="paper",
        data="cifar10",
        model="resnet18",
        poison_rates=(0.0, 0.01, 0.05, 0.1),
        victims="all",
        seeds=5,
        weight_decays=(5e-4,),
        widths=(1.0,),
        epochs=(120,),
        batch_sizes=(256,),
        schedule="cosine",
        crop=0,
        flip=False,
        probes=(1, 5, 10, 20, 40, 60, 80, 100, 120),
    ),
}


def summarise(name: str, tracking_uri: str, folder: Path) -> tuple[str, list[Path]]:
    """The table for the terminal and the map as a picture."""
    region = DefendedRegionMap.from_mlflow(name, tracking_uri=tracking_uri)
    picture = folder / "map.png"
    plot_map(region).savefig(picture)
    return f"{summary(region)}\n\nThe map: {picture}", [picture]


if __name__ == "__main__":
    sys.exit(main(PRESETS, summarise))
