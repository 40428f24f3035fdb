"""Encoders that several trials need: trained once, kept in a folder under the hash of all that decides them."""

import json
import logging
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from raybd.models import Classifier
from raybd.pretraining.config import PretrainConfig
from raybd.pretraining.hashing import Weights, add, hash_of, replace_file, weights_of
from raybd.pretraining.loop import Pretrained, pretrain
from raybd.training import Checkpoint
from raybd.utils.locks import once

log = logging.getLogger(__name__)
FORMAT = 1  # another number makes every encoder be trained anew


def encoder(
    model: Classifier,
    x: Tensor,
    config: PretrainConfig,
    seed: int,
    cache_folder: Path | None = None,
    heartbeat: Callable[[], None] = lambda: None,
) -> Pretrained:
    """`model` pretrained on `x` (N, C, H, W) uint8, in place and but for its head, as `pretrain` would.

    Taken from `cache_folder` where one with the same key is kept; else trained by one process, from where a dead one
    stopped, while others wait and call `heartbeat`. The key is the pixels, the settings, the architecture, the weights
    that `model` comes with, the seed and the kind of device. Without a folder, or where it cannot be written to, it is
    trained for this caller alone.

    Raises:
        InputError, DivergedError: as `pretrain` does.
    """
    if cache_folder is None:
        return pretrain(model, x, config, seed, heartbeat=heartbeat)
    place = _Place(cache_folder / "encoders" / recipe(model, x, config, seed), model)
    first = {name: value.clone() for name, value in weights_of(model).items()}

    def train() -> None:
        place.clear()
        place.keep(pretrain(model, x, config, seed, place.checkpoint, heartbeat))

    try:
        place.folder.mkdir(parents=True, exist_ok=True)
        once(place.load, train, place.folder / ".lock", heartbeat)
    except OSError as error:
        log.warning("no encoder can be kept in %s (%s): it is trained for this trial alone", cache_folder, error)
        model.load_state_dict(first, strict=False)
        return pretrain(model, x, config, seed, heartbeat=heartbeat)
    assert place.found is not None
    return place.found


def recipe(model: Classifier, x: Tensor, config: PretrainConfig, seed: int) -> str:
    """16 hex digits that stand for everything that decides an encoder."""
    text = f"{FORMAT} {model!r} {model.noise} {config!r} {seed} {x.device.type}"
    digest = sha256(f"{text} {hash_of(weights_of(model))}".encode())
    add(digest, x)
    return digest.hexdigest()[:16]


class _Place:
    """Where one encoder is kept: its weights, what it cost, and a checkpoint while it is trained."""

    def __init__(self, folder: Path, model: Classifier) -> None:
        self.folder, self.model = folder, model
        self.file, self.cost = folder / "weights.pt", folder / "cost.json"
        self.checkpoint = Checkpoint(folder / "checkpoint.pt")
        self.found: Pretrained | None = None

    def load(self) -> bool:
        """Whether the encoder is there; if so, the model has its weights."""
        if self.found is None and self.file.exists():
            try:
                self.found = self._read()
            except Exception as error:  # noqa: BLE001 - a broken file raises whatever its bytes suggest
                log.warning("the encoder in %s cannot be read (%s): it is trained anew", self.folder, error)
        return self.found is not None

    def _read(self) -> Pretrained:
        cost = json.loads(self.cost.read_text())
        kept: Weights = torch.load(self.file, map_location=self.model.mean.device, weights_only=True)
        if cost["weights"] != hash_of(kept):  # torch does not see a byte that has changed
            raise ValueError("these are not the weights that were written")
        self.model.load_state_dict(kept, strict=False)
        self.model.eval()
        return Pretrained(tuple(cost["losses"]), cost["seconds"], reused=True)

    def keep(self, spent: Pretrained) -> None:
        """Write the model, which took `spent`, for all who come later; the weights last, for they say it is done."""
        self.found = spent
        kept = weights_of(self.model)
        cost = {"losses": spent.losses, "seconds": spent.seconds, "weights": hash_of(kept)}
        try:
            replace_file(self.cost, lambda part: part.write_text(json.dumps(cost)))
            replace_file(self.file, lambda part: torch.save(kept, part))
            self.checkpoint.path.unlink(missing_ok=True)
        except (OSError, RuntimeError) as error:  # torch says RuntimeError where the disk is full
            log.warning("the encoder cannot be kept in %s (%s)", self.folder, error)

    def clear(self) -> None:
        """Take away what could not be read, so that those who wait do not try it again."""
        self.file.unlink(missing_ok=True)
