"""The clean network that an attacker trains for himself, once for each training set, kept for later trials."""

import hashlib
import logging
import os
from pathlib import Path

import torch
from filelock import FileLock
from torch import nn

from raybd.data.describe import mean_std
from raybd.models import build_model
from raybd.seeds import derive
from raybd.training import TrainConfig, fit
from raybd.types import Images

log = logging.getLogger(__name__)
STEPS = 3000  # about so many batches of 64 ...
EPOCHS = (3, 30)  # ... in at least and at most so many epochs
SEED = 0  # one surrogate for all trials: it is the attacker's, and what varies with a trial's seed is the victim's


def surrogate(train: Images, classes: int) -> nn.Module:
    """A small_cnn trained on the clean images `train`, in evaluation mode on their device.

    Kept in RAYBD_CACHE (default ~/.cache/raybd) by the hash of pixels, labels and training, where that can be written.
    """
    epochs = max(EPOCHS[0], min(EPOCHS[1], round(STEPS * 64 / len(train))))
    train_config = TrainConfig(epochs=epochs)
    model = _fresh(train, classes)
    folder = Path(os.environ.get("RAYBD_CACHE", "~/.cache/raybd")).expanduser() / "surrogates"
    model.load_state_dict(_weights(_key(train, classes, train_config), folder, train, classes, train_config))
    return model.eval()


def _fresh(train: Images, classes: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(derive(SEED, "surrogate"))
        return build_model("small_cnn", train.shape, classes, *mean_std(train.x.cpu())).to(train.x.device)


def _key(train: Images, classes: int, train_config: TrainConfig) -> str:
    content = hashlib.sha256(f"{classes} {train_config!r}".encode())
    for tensor in (train.x, train.y):
        content.update(str(tuple(tensor.shape)).encode())
        content.update(tensor.cpu().contiguous().numpy().data)
    return content.hexdigest()[:16]


def _weights(key: str, folder: Path, train: Images, classes: int, train_config: TrainConfig) -> dict[str, torch.Tensor]:
    file = folder / f"{key}.pt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            if not file.exists():
                _keep(_trained(train, classes, train_config), file)
    except OSError as error:
        log.warning("the surrogate cannot be kept in %s (%s): it is trained for this trial alone", folder, error)
        return _trained(train, classes, train_config)
    weights: dict[str, torch.Tensor] = torch.load(file, map_location=train.x.device, weights_only=True)
    return weights


def _keep(weights: dict[str, torch.Tensor], file: Path) -> None:
    part = file.with_suffix(f".{os.getpid()}")
    torch.save(weights, part)
    part.replace(file)


def _trained(train: Images, classes: int, train_config: TrainConfig) -> dict[str, torch.Tensor]:
    model = _fresh(train, classes)
    with torch.random.fork_rng():
        for _ in fit(model, train, train_config, derive(SEED, "surrogate")):
            pass
    return model.state_dict()
