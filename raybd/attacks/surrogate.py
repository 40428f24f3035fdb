"""The attacker's surrogate: a clean network, trained once for each training set and cached for later trials."""

import os
from functools import partial
from pathlib import Path

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


def surrogate(train: Images, classes: int) -> nn.Module:
    """A small_cnn trained on the clean images `train`, in evaluation mode on their device.

    Cached in RAYBD_CACHE (default ~/.cache/raybd) by the hash of pixels, labels and training.
    """
    config = TrainConfig(epochs=max(EPOCHS[0], min(EPOCHS[1], round(STEPS * 64 / len(train)))))
    folder = Path(os.environ.get("RAYBD_CACHE", "~/.cache/raybd")).expanduser() / "surrogates"
    key = content_hash(f"{classes} {config!r}", train.x, train.y)
    model = _untrained(train, classes)
    model.load_state_dict(compute_once(folder / f"{key}.pt", partial(_trained, train, classes, config)))
    return model.eval()


def _untrained(train: Images, classes: int) -> nn.Module:
    with forked_rng(SEED, "surrogate", device=train.x.device):
        return build_model("small_cnn", train.shape, classes, *mean_std(train.x)).to(train.x.device)


def _trained(train: Images, classes: int, config: TrainConfig) -> dict[str, Tensor]:
    model = _untrained(train, classes)
    with forked_rng(SEED, "surrogate", device=train.x.device):
        for _ in fit(model, train, config, derive(SEED, "surrogate")):
            pass
    return model.state_dict()
