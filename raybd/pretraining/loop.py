"""The loop that pretrains an encoder without labels: the whole set on the device as uint8, no host sync in a step.

Every random number of an epoch comes from streams named by (seed, purpose, epoch), so a pretraining that is resumed
after an epoch goes on with the same bits as one that was never stopped.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raybd.errors import DivergedError, InputError
from raybd.models import Classifier
from raybd.pretraining.augmentations import Views, default_views, random_views
from raybd.pretraining.config import PretrainConfig
from raybd.pretraining.lars import Lars
from raybd.pretraining.nnclr import NnClr
from raybd.pretraining.simclr import SimClr
from raybd.seeds import forked_rng, stream
from raybd.training import Checkpoint, TrainConfig, autocast, memory_format

METHODS: dict[str, type[SimClr] | type[NnClr]] = {"simclr": SimClr, "nnclr": NnClr}


@dataclass(frozen=True)
class PretrainResult:
    """Losses and cost of a pretraining."""

    losses: tuple[float, ...]  # the mean of each epoch, in nats
    seconds: float  # of training, all attempts together
    reused: bool = False  # whether the weights were loaded from a cache


def pretrain(
    model: Classifier,
    x: Tensor,
    config: PretrainConfig,
    seed: int,
    checkpoint: Checkpoint | None = None,
    heartbeat: Callable[[], None] = lambda: None,
) -> PretrainResult:
    """Train all of `model` but its head, in place, on `x` (N, C, H, W) uint8 on its device; resumes from `checkpoint`.

    `heartbeat` is called after every epoch. The model is left in evaluation mode.

    Raises:
        InputError: there are fewer than 2 images, or they are not uint8.
        DivergedError: the loss is not finite.
    """
    _check(x)
    run = _Trainer(model, x, config, seed)
    state = checkpoint.load() if checkpoint is not None else None
    losses, seconds = run.restore(state) if state else ([], 0.0)
    start = time.monotonic() - seconds
    for epoch in range(len(losses) + 1, config.epochs + 1):
        losses.append(run.epoch(epoch))
        if not math.isfinite(losses[-1]):
            raise DivergedError(f"the pretraining loss is {losses[-1]} in epoch {epoch} of {config.epochs}")
        if checkpoint is not None and epoch < config.epochs:
            checkpoint.save(run.state() | {"epoch": epoch, "losses": losses, "seconds": time.monotonic() - start})
        heartbeat()
    model.eval()
    return PretrainResult(tuple(losses), time.monotonic() - start)


def _check(x: Tensor) -> None:
    if x.dtype != torch.uint8 or x.ndim != 4:
        raise InputError(f"pretraining takes images (N, C, H, W) uint8, got {x.dtype} {tuple(x.shape)}")
    if len(x) < 2:
        raise InputError(f"pretraining needs at least 2 images, got {len(x)}")


class _Trainer:
    """Network, loss head and optimizer of a pretraining."""

    def __init__(self, model: Classifier, x: Tensor, config: PretrainConfig, seed: int) -> None:
        self.model, self.x, self.config, self.seed = model, x, config, seed
        self.train_config = TrainConfig(precision=config.precision, memory_format=config.memory_format)
        self.views: Views = config.views or default_views(x.shape[1:])
        self.batches = max(1, round(len(x) / config.batch_size))
        model.to(memory_format=memory_format(self.train_config))
        with forked_rng(seed, "pretraining head", device=x.device):
            self.objective = METHODS[config.method](model.feature_size, config).to(x.device)
        self.modules = nn.ModuleList([model, self.objective])
        # the head is among them, but gets no gradient, and the optimizer skips parameters without one
        self.optimizer = _optimizer(list(self.modules.parameters()), config)

    def epoch(self, number: int) -> float:
        """The mean loss, in nats, of epoch `number` (from 1)."""
        device = self.x.device
        order = torch.randperm(len(self.x), generator=stream(self.seed, "pretraining batches", number)).to(device)
        rng = stream(self.seed, "pretraining views", number, device=device)
        total = torch.zeros((), device=device)
        self.modules.train()
        with forked_rng(self.seed, "pretraining network", number, device=device):
            # parts of equal size: a contrastive loss depends on the size of its batch
            for step, index in enumerate(order.tensor_split(self.batches), start=(number - 1) * self.batches):
                total += self._step(step, index, rng)
        return float(total) / self.batches

    def _step(self, step: int, index: Tensor, rng: torch.Generator) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step, self.batches)
        x = self.x[index]
        pair = random_views(torch.cat([x, x]), self.views, rng).contiguous(
            memory_format=memory_format(self.train_config)
        )
        with autocast(self.train_config, x.device):
            loss: Tensor = self.objective(self.model.features(self.model.normalise(pair)))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def state(self) -> dict[str, Any]:
        """The state of a checkpoint, but for losses and seconds."""
        return {"modules": self.modules.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> tuple[list[float], float]:
        """Restore the checkpoint `state`: the losses so far, and the seconds they took."""
        self.modules.load_state_dict(state["modules"])
        self.optimizer.load_state_dict(state["optimizer"])
        return list(state["losses"]), state["seconds"]


def learning_rate(config: PretrainConfig, step: int, batches: int) -> float:
    """The learning rate at `step` (from 0), an epoch being of `batches` steps.

    Linear over the warm-up, peak (step + 1) / warm; then a cosine, peak (1 + cos(pi share)) / 2.
    """
    steps = config.epochs * batches
    warm = min(config.warm_up * batches, steps)
    if step < warm:
        return config.learning_rate * min(1.0, (step + 1) / warm)
    return config.learning_rate * (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2


def _optimizer(weights: list[nn.Parameter], config: PretrainConfig) -> torch.optim.Optimizer:
    if config.optimizer == "lars":
        return Lars(weights, config.learning_rate, config.momentum, config.weight_decay)
    return torch.optim.SGD(
        weights, config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay, fused=True
    )
