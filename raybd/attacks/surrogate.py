"""What an attacker trains beforehand on the clean training images, once for all trials: a surrogate of the victim."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from raybd.data.describe import mean_std
from raybd.models import build_model
from raybd.seeds import derive, forked_rng
from raybd.training import TrainConfig, fit
from raybd.types import Images
from raybd.utils.cache import compute_once, content_hash

STEPS = 3000  # about so many batches of 64 ...
EPOCHS = (3, 30)  # ... in at least and at most so many epochs
SEED = 0  # one surrogate for all trials: it is the attacker's, and what varies with a trial's seed is the victim's

Trained = TypeVar("Trained")


def surrogate(train: Images, classes: int) -> nn.Module:
    """A small_cnn trained on the clean images `train`, in evaluation mode on their device.

    Cached in RAYBD_CACHE (default ~/.cache/raybd) by the hash of pixels, labels and training.
    """
    config = surrogate_config(len(train))
    model = untrained_surrogate(train, classes)
    trained = partial(_trained, train, classes, config)
    model.load_state_dict(trained_once("surrogates", train, f"{classes} {config!r}", trained))
    return model.eval()


def surrogate_config(images: int) -> TrainConfig:
    """How a surrogate is trained on so many images."""
    return TrainConfig(epochs=max(EPOCHS[0], min(EPOCHS[1], round(STEPS * 64 / images))))


def trained_once(kind: str, train: Images, settings: str, compute: Callable[[], Trained]) -> Trained:
    """What `compute` makes of the clean images `train`: tensors, on the CPU where they come from the cache.

    Cached in RAYBD_CACHE/`kind` by the hash of pixels, labels and `settings`, which say how.
    """
    folder = Path(os.environ.get("RAYBD_CACHE", "~/.cache/raybd")).expanduser() / kind
    with torch.enable_grad():
        return compute_once(folder / f"{content_hash(settings, train.x, train.y)}.pt", compute)


def untrained_surrogate(train: Images, classes: int) -> nn.Module:
    """The network of a surrogate before its training, on the device of `train`."""
    with forked_rng(SEED, "surrogate", device=train.x.device):
        return build_model("small_cnn", train.shape, classes, *mean_std(train.x)).to(train.x.device)


def _trained(train: Images, classes: int, config: TrainConfig) -> dict[str, Tensor]:
    model = untrained_surrogate(train, classes)
    with forked_rng(SEED, "surrogate", device=train.x.device):
        for _ in fit(model, train, config, derive(SEED, "surrogate")):
            pass
    return model.state_dict()
