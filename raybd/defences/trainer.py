"""Training with a loss, steps or learning rates of one's own: what a defence needs that `raybd.training.fit` is not.

Batches, augmentation, schedule and random streams are those of `fit`: with the plain loss it has the same bits.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.defences.base import Scene
from raybd.defences.cost import Meter
from raybd.errors import DivergedError
from raybd.seeds import derive, stream
from raybd.training import augment, autocast, in_batches, learning_rate, memory_format, optimizer_of, prepare
from raybd.types import Images

LossOf = Callable[[Tensor, Tensor, Tensor], Tensor]  # images (B, C, H, W) in [0, 1], labels (B,), places (B,) -> loss


class Course:
    """A training of `scene.model` under way, from its checkpoint where there is one; epochs count from 1."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.model = scene, scene.model
        self.model.to(memory_format=memory_format(scene.how))
        self.optimizer = optimizer_of(self.model, scene.how)
        self.state = scene.checkpoint.load() if scene.checkpoint is not None else None
        self.first = self.state["epoch"] + 1 if self.state else 1
        self.meter = Meter(self.state, 0 if scene.trusted is None else len(scene.trusted))
        if self.state:
            self.model.load_state_dict(self.state["model"])
            self.optimizer.load_state_dict(self.state["optimizer"])

    def save(self, epoch: int, **beside: Any) -> None:
        """Keep the state after `epoch`, and what the defence needs beside; not after the last."""
        if self.scene.checkpoint is not None and epoch < self.scene.how.epochs:
            state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "epoch": epoch}
            self.scene.checkpoint.save(state | beside | self.meter.state())

    def begin(self, epoch: int) -> torch.Generator:
        """Make the network ready for the steps of `epoch`; the generator is for its augmentation."""
        torch.manual_seed(derive(self.scene.seed, "network", epoch))  # dropout and the like draw from it
        self.model.train()
        return stream(self.scene.seed, "augmentation", epoch, device=self.scene.images.x.device)

    def epoch(self, number: int, images: Images, loss_of: LossOf, rate: float | None = None) -> float:
        """The mean loss of one pass over `images`; at the learning rate `rate`, or else at that of the schedule.

        Raises:
            DivergedError: it is no number.
        """
        how, seed, device = self.scene.how, self.scene.seed, images.x.device
        rng = self.begin(number)
        order = torch.randperm(len(images), generator=stream(seed, "batches", number)).to(device)
        batches = in_batches(order, how.batch_size)
        total = torch.zeros((), device=device)
        for step, index in enumerate(batches, start=(number - 1) * len(batches)):
            x = prepare(augment(images.x[index], how.crop, how.flip, rng), how)
            with autocast(how, device):
                loss = loss_of(x, images.y[index], index)
            usual = learning_rate(how, step, how.epochs * len(batches))
            total += self.step(loss, usual if rate is None else rate) * len(index)
        self.meter.passes += len(images) / len(self.scene.images)
        self.scene.beat()
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
            raise DivergedError(f"the training loss is {loss} in epoch {epoch} of {self.scene.how.epochs}")
        return loss


@torch.no_grad()
def losses_of(model: nn.Module, images: Images, scene: Scene) -> Tensor:
    """The cross-entropy in nats of each of `images` as it is, in evaluation mode: (N,) float32 on the CPU."""
    logits = logits_of(model, images.x, scene)
    return F.cross_entropy(logits, images.y, reduction="none").cpu()


@torch.no_grad()
def logits_of(model: nn.Module, x: Tensor, scene: Scene) -> Tensor:
    """(N, K) float32 of the bytes `x` (N, C, H, W), in evaluation mode."""
    model.eval()
    parts = []
    for part in x.split(512):
        with autocast(scene.how, x.device):
            parts.append(model(prepare(part, scene.how)).float())
        scene.beat()
    return torch.cat(parts)


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
