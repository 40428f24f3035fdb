"""Clean networks that are trained here, each once: what the figures of a network are compared with."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from raybd.attacks import ATTACKS, Attack, NoAttack
from raybd.defences import TrainingContext
from raybd.inspection.figures import Measures, figures
from raybd.plugins import spec
from raybd.training import Checkpoint, TrainConfig
from raybd.trials.config import TrialConfig
from raybd.trials.contents import with_contents
from raybd.trials.model import ModelConfig
from raybd.trials.untrained import deployed_network
from raybd.types import Data
from raybd.utils.cache import compute_once, content_hash, load_tensors
from raybd.utils.files import expanded, write_text

FORMAT = 1  # of the figures; another number makes all of them be measured anew


def clean_figures(
    data: Data,
    model: ModelConfig,
    train: TrainConfig,
    measures: Measures,
    attack: Attack,
    seeds: range,
    cache: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> list[dict[str, float]]:
    """The figures of a clean network `model` for each of `seeds`, trained on the training images of `data`.

    Networks and figures are kept in `cache` (default: RAYBD_CACHE, or ~/.cache/raybd): they are made once for all
    networks that are inspected on the same data with the same settings.

    Raises:
        InputError: the network does not fit the data.
        DivergedError: a training diverged.
    """
    folder = expanded(cache or Path(os.environ.get("RAYBD_CACHE", "~/.cache/raybd"))) / "inspection"
    base = TrialConfig(
        data=data.name, fingerprint=data.fingerprint, attack=NoAttack(), poison_rate=0.0, model=model, train=train
    )
    (known,) = with_contents([base], {base.image_set: data})
    found = []
    for seed in seeds:
        config = replace(known, seed=seed)
        progress(f"clean network {seed + 1} of {len(seeds)}")
        found.append(_figures_once(config, data, measures, attack, folder))
    return found


def _figures_once(
    config: TrialConfig, data: Data, measures: Measures, attack: Attack, folder: Path
) -> dict[str, float]:
    asked = content_hash(f"{FORMAT} {measures!r} {json.dumps(spec(ATTACKS, attack), sort_keys=True)}")
    return compute_once(
        folder / f"{config.key}-{asked}.json",
        lambda: figures(clean_network(config, data, folder), data, measures, attack),
        load=lambda path: {str(name): float(value) for name, value in json.loads(path.read_text()).items()},
        save=lambda value, path: write_text(path, json.dumps(value)),
    )


def clean_network(config: TrialConfig, data: Data, folder: Path) -> nn.Module:
    """The clean network of `config`, in evaluation mode, trained if `folder` does not hold it yet."""
    network = deployed_network(config, data)
    path = folder / f"{config.key}.pt"

    def train() -> dict[str, torch.Tensor]:
        for _ in _training(network, config, data, path.with_suffix(".checkpoint.pt")):
            pass
        return network.state_dict()

    checkpoint = path.with_suffix(".checkpoint.pt")
    network.load_state_dict(compute_once(path, train, load=load_tensors, resume_files=[checkpoint]))
    return network.eval()


def _training(network: nn.Module, config: TrialConfig, data: Data, checkpoint: Path) -> Iterator[object]:
    return config.defence.train(
        TrainingContext(
            model=network,
            images=data.train,
            classes=len(data.classes),
            train_config=config.train,
            seed=config.seed,
            checkpoint=Checkpoint(checkpoint, epochs=config.train.epochs),
        )
    )
