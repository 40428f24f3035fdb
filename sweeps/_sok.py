"""The grid of arXiv 2511.13143 (Abad et al., "SoK: The Last Line of Defense: On Backdoor Defense Evaluation", 2025):
three data sets, four networks, five attacks, five poison rates and 16 defences, of which the abstract names none.

A sweep has one data set and one network, so the grid is several sweeps. Epochs, learning rates and seeds are raybd's.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from raybd.attacks import ATTACKS
from raybd.command_line.options import SweepOptions
from raybd.data import DATASETS
from raybd.defences import DEFENCES

RATES = (0.0, 0.005, 0.01, 0.05, 0.2)
DEFENCES_OF_THE_PAPER = 16


@dataclass(frozen=True)
class Axis:
    """An axis of the grid: what is on it by its name in the paper, and how raybd calls it."""

    what: str
    values: dict[str, str]
    known: Collection[str] | None = None  # raybd's own; None: all of `values`

    def here(self) -> tuple[str, ...]:
        """The values that raybd has, by its own names."""
        return tuple(name for name in self.values.values() if self.known is None or name in self.known)

    def missing(self) -> tuple[str, ...]:
        """The names in the paper of the others."""
        return tuple(paper for paper, name in self.values.items() if name not in self.here())


DATA = Axis("data", {"MNIST": "mnist", "CIFAR-100": "cifar100", "ImageNet-1K": "imagenet"}, DATASETS)
MODELS = Axis(
    "models",
    {
        "ResNet-18": "resnet18",
        "VGG-19": "torchvision:vgg19",
        "ViT-B/16": "torchvision:vit_b_16",
        "DenseNet-121": "torchvision:densenet121",
    },
)
ATTACKS_OF_THE_PAPER = Axis(
    "attacks",
    {"BadNets": "badnets", "Blended": "blended", "WaNet": "wanet", "AdvDoor": "advdoor", "Narcissus": "narcissus"},
    ATTACKS,
)


def preset(**changes: Any) -> SweepOptions:
    """The grid's sweep of MNIST and ResNet-18, with `changes` by the names of flags."""
    given = {
        "preset": "sok",
        "data": DATA.here()[0],
        "resize": 32,  # VGG-19 takes no less
        "model": MODELS.here()[0],
        "widths": (1.0,),
        "attacks": ATTACKS_OF_THE_PAPER.here(),
        "poison_rates": RATES,
        "lower_rates": True,  # a clean-label attack has the target class alone
        "weight_decays": (5e-4,),
    }
    return SweepOptions.of(**given | changes)


def notes(options: SweepOptions) -> list[str]:
    """What of the grid this sweep is, and what raybd lacks; nothing for other presets."""
    if options.preset != "sok":
        return []
    axes = (DATA, MODELS, ATTACKS_OF_THE_PAPER)
    lacks = [f"{axis.what} {', '.join(axis.missing())}" for axis in axes if axis.missing()]
    others = " and ".join(f"--{flag} {' '.join(axis.here())}" for flag, axis in (("data", DATA), ("model", MODELS)))
    return [
        f"of the grid of arXiv 2511.13143 this is {options.dataset.data} with {options.network.model}; a sweep each: "
        f"{others} (with --patch-size 4 or --patch-size 1 for images of 32 pixels, where the last two are)",
        f"missing here: {'; '.join(lacks)}" if lacks else "nothing of it is missing here",
        f"its {DEFENCES_OF_THE_PAPER} defences are not named in its abstract; sweeps/defences.py has "
        f"{len(DEFENCES)} ways to train and to repair; epochs, learning rate and seeds are raybd's own",
        "a folder of ImageNet's images is --data folder:PATH --resize 224; clean-label attacks have the target class "
        "alone, and their larger rates become that",
    ]
