"""Encoders that several trials need: each is pretrained once and cached by the hash of all that decides it."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from raybd.models import Classifier
from raybd.pretraining.config import PretrainConfig
from raybd.pretraining.loop import PretrainResult, pretrain
from raybd.training import Checkpoint
from raybd.utils.cache import compute_once, content_hash, load_tensors
from raybd.utils.source_files import class_sources

FORMAT = 2  # of the key; another number makes every encoder be trained anew


def pretrain_once(
    model: Classifier,
    x: Tensor,
    config: PretrainConfig,
    seed: int,
    cache_folder: Path | None = None,
    heartbeat: Callable[[], None] = lambda: None,
) -> PretrainResult:
    """Pretrain `model` but for its head, in place, on `x` (N, C, H, W) uint8, as `pretrain` does, or load the weights
    from `cache_folder` if they are there; it is left in evaluation mode.

    One process trains, from the checkpoint of one that died if there is one, while others wait and call `heartbeat`.

    Raises:
        InputError, DivergedError: as `pretrain` does.
    """
    if cache_folder is None:
        return pretrain(model, x, config, seed, heartbeat=heartbeat)
    path = cache_folder / "encoders" / f"{encoder_key(model, x, config, seed)}.pt"
    checkpoint = Checkpoint(path.with_suffix(".checkpoint.pt"), epochs=config.epochs)

    def save(trained: PretrainResult, path: Path) -> None:
        weights = encoder_weights(model)
        torch.save({"weights": weights, "losses": list(trained.losses), "seconds": trained.seconds}, path)

    def load(path: Path) -> PretrainResult:
        found = load_tensors(path)
        trained = PretrainResult(tuple(found["losses"]), found["seconds"], reused=True)
        model.load_state_dict(found["weights"], strict=False)
        model.eval()
        return trained

    return compute_once(
        path,
        lambda: pretrain(model, x, config, seed, checkpoint, heartbeat),
        load=load,
        save=save,
        heartbeat=heartbeat,
        resume_files=[checkpoint.path],
    )


def encoder_key(model: Classifier, x: Tensor, config: PretrainConfig, seed: int) -> str:
    """16 hex digits of the images, settings, architecture, first weights, seed, kind of device and the user's code."""
    text = f"{FORMAT} {model!r} {model.noise} {config!r} {seed} {x.device.type}{class_sources(model)}"
    return content_hash(text, encoder_weights(model), x)


def encoder_weights(model: Classifier) -> dict[str, Tensor]:
    """The state of `model` without that of its head; shares memory with it."""
    head = {id(value) for value in model.head.state_dict(keep_vars=True).values()}
    state = model.state_dict(keep_vars=True)
    return {name: value.detach() for name, value in state.items() if id(value) not in head}
