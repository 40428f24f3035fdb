"""Training with a loss, steps or learning rates of one's own: what a defence needs that `raybd.training.fit` is not.

Batches, augmentation, schedule and random streams are those of `fit`: with the plain loss it has the same bits.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.defences.base import TrainingContext
from raybd.defences.cost import Cost
from raybd.errors import DivergedError
from raybd.models.batch_size import batch_size, batched
from raybd.pixels import batches_of
from raybd.seeds import derive, stream
from raybd.training import augment, autocast, in_batches, learning_rate, memory_format, optimizer_of, prepare
from raybd.types import Images

LossOf = Callable[[Tensor, Tensor, Tensor], Tensor]  # images (B, C, H, W) in [0, 1], labels (B,), places (B,) -> loss


class Trainer:
    """A training of `context.model` under way, from its checkpoint where there is one; epochs count from 1."""

    def __init__(self, context: TrainingContext) -> None:
        self.context, self.model = context, context.model
        self.model.to(memory_format=memory_format(context.train_config))
        self.optimizer = optimizer_of(self.model, context.train_config)
        self.state = context.checkpoint.load() if context.checkpoint is not None else None
        self.first = self.state["epoch"] + 1 if self.state else 1
        self.cost = Cost(self.state, 0 if context.trusted is None else len(context.trusted))
        if self.state:
            self.model.load_state_dict(self.state["model"])
            self.optimizer.load_state_dict(self.state["optimizer"])

    def save(self, epoch: int, **beside: Any) -> None:
        """Keep the state after `epoch`, and what the defence needs beside; not after the last."""
        if self.context.checkpoint is not None and epoch < self.context.train_config.epochs:
            state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "epoch": epoch}
            self.context.checkpoint.save(state | beside | self.cost.state())

    def begin(self, epoch: int) -> torch.Generator:
        """Make the network ready for the steps of `epoch`; the generator is for its augmentation."""
        torch.manual_seed(derive(self.context.seed, "network", epoch))  # dropout and the like draw from it
        self.model.train()
        return stream(self.context.seed, "augmentation", epoch, device=self.context.images.x.device)

    def epoch(self, number: int, images: Images, loss_of: LossOf, rate: float | None = None) -> float:
        """The mean loss of one pass over `images`; at the learning rate `rate`, or else at that of the schedule.

        Raises:
            DivergedError: it is no number.
        """
        train_config, seed, device = self.context.train_config, self.context.seed, images.x.device
        rng = self.begin(number)
        order = torch.randperm(len(images), generator=stream(seed, "batches", number)).to(device)
        batches = in_batches(order, train_config.batch_size)
        total = torch.zeros((), device=device)
        pictures = batches_of(images.x, batches)
        for step, (index, batch) in enumerate(zip(batches, pictures, strict=True), start=(number - 1) * len(batches)):
            x = prepare(augment(batch, train_config.crop, train_config.flip, rng), train_config)
            with autocast(train_config, device):
                loss = loss_of(x, images.y[index], index)
            usual = learning_rate(train_config, step, train_config.epochs * len(batches))
            total += self.step(loss, usual if rate is None else rate) * len(index)
        self.cost.passes += len(images) / len(self.context.images)
        self.context.heartbeat()
        return self.finite(float(total) / sum(map(len, batches)), number)

    def step(self, loss: Tensor, rate: float) -> Tensor:
        """One step of the optimiser at the learning rate `rate`; the loss (), without its graph."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def finite(self, loss: float, epoch: int) -> float:
        """`loss`. Raises DivergedError where it is no number."""
        if not math.isfinite(loss):
            raise DivergedError(f"the training loss is {loss} in epoch {epoch} of {self.context.train_config.epochs}")
        return loss


@torch.no_grad()
def losses_of(model: nn.Module, images: Images, context: TrainingContext) -> Tensor:
    """The cross-entropy in nats of each of `images` as it is, in evaluation mode: (N,) float32 on the CPU."""
    logits = logits_of(model, images.x, context)
    return F.cross_entropy(logits, images.y, reduction="none").cpu()


@torch.no_grad()
def logits_of(model: nn.Module, x: Tensor, context: TrainingContext) -> Tensor:
    """(N, K) float32 of the bytes `x` (N, C, H, W), in evaluation mode."""
    model.eval()

    def logits(some: Tensor) -> Tensor:
        with autocast(context.train_config, x.device):
            found: Tensor = model(prepare(some, context.train_config)).float()
        return found

    return batched(logits, x, size=batch_size(model, x, 512), heartbeat=context.heartbeat)


def lowest(values: Tensor, count: int) -> Tensor:
    """Mask (N,) of the `count` lowest of `values` (N,); of equal ones, the first."""
    found = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    found[values.argsort(stable=True)[:count]] = True
    return found


def lowest_of_each(values: Tensor, y: Tensor, classes: int, count: int) -> Tensor:
    """Mask (N,) of the `count` lowest `values` (N,) of each class, or all where it has fewer; of equal, the first."""
    found = torch.zeros(len(values), dtype=torch.bool)
    for label in range(classes):
        index = (y == label).nonzero()[:, 0]
        found[index[values[index].argsort(stable=True)[:count]]] = True
    return found
