"""PostTraining: the base class of defences that repair a network after ordinary training."""

import copy
import itertools
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from raybd.data.split import stratified
from raybd.defences.base import Access, Defence, TrainingContext
from raybd.defences.cost import counted
from raybd.errors import DivergedError, InputError
from raybd.models.batch_size import batch_size, batched
from raybd.seeds import forked_rng, stream
from raybd.training import Epoch, Ranks, augment, fit, learning_rate, prepare
from raybd.types import Images
from raybd.utils.constraints import InnerShare

Numbers = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class PostTraining(Defence):
    """The plain training loop; the network is repaired after its last epoch, before that is measured.

    The last epoch's numbers tell what the repair cost: passes over a set as large as the training set, forward and
    back (a pass forward alone is a third of one); seconds; and the clean images that it was given.
    """

    parallel: ClassVar[bool] = True  # but for the repair
    after_training: ClassVar[bool] = True

    def train(self, context: TrainingContext) -> Iterator[Epoch]:
        """Training as no defence does it, the last epoch with the repair."""
        primary = Ranks.of(context.train_config.workers).primary  # the others measure nothing: they need no repair
        for epoch in fit(context.model, context.images, context.train_config, context.seed, context.checkpoint):
            repaired = epoch.last and primary
            yield replace(epoch, numbers=epoch.numbers | self.timed(context)) if repaired else epoch

    @abstractmethod
    def apply(self, context: TrainingContext) -> Numbers:
        """Repair `context.model` in place; numbers of the repair, "defence/extra_images" at least."""

    def timed(self, context: TrainingContext) -> Numbers:
        """The repair with what it cost.

        Raises:
            DivergedError: it left weights that are no numbers.
        """
        start, device = time.perf_counter(), context.images.x.device
        with forked_rng(context.seed, "repair", device=device), counted(context.model) as passed:
            numbers = self.apply(context)
        if not all(bool(part.isfinite().all()) for part in context.model.parameters()):
            raise DivergedError("the repair left weights that are no numbers")
        cost = {"passes": passed[0] / len(context.images), "seconds": time.perf_counter() - start}
        return numbers | {f"defence/{name}": value for name, value in cost.items()}


@dataclass(frozen=True, kw_only=True)
class CleanRepair(PostTraining):
    """A repair with clean images, which are drawn from those that the trial has set aside."""

    budget: InnerShare = 0.05  # clean images, as a share of the training set before any were set aside

    access: ClassVar[Access] = "clean images"

    @abstractmethod
    def repair(self, model: nn.Module, clean: Images, context: TrainingContext) -> Numbers:
        """Repair `model` in place with the images `clean`; numbers of the repair besides its cost."""

    @property
    def clean_share(self) -> float:
        """The budget."""
        return self.budget

    def apply(self, context: TrainingContext) -> Numbers:
        """Draw the clean images and repair with them."""
        clean = drawn(context, self.budget)
        return self.repair(context.model, clean, context) | {"defence/extra_images": float(len(clean))}


def drawn(context: TrainingContext, budget: float) -> Images:
    """`budget` of the whole training set in clean images, each class its share, from the stream "budget".

    Raises:
        ValueError: the trial has set none aside.
    """
    if context.trusted is None:
        raise ValueError("a repair with clean images must be given some")
    total = len(context.images) + len(context.trusted)
    share = min(1.0, budget * total / len(context.trusted))
    mask = stratified(context.trusted.y.cpu(), share, stream(context.seed, "budget"))
    return context.trusted.take(mask.nonzero()[:, 0].to(context.trusted.x.device))


def batches(clean: Images, context: TrainingContext, steps: int, purpose: str) -> Iterator[tuple[Tensor, Tensor]]:
    """`steps` batches of `clean`, shuffled and augmented as in training: x (B, C, H, W) float in [0, 1] and y (B,)."""
    pieces = itertools.chain.from_iterable(_epoch(clean, context, number, purpose) for number in itertools.count(1))
    return itertools.islice(pieces, steps)


def _epoch(clean: Images, context: TrainingContext, number: int, purpose: str) -> Iterator[tuple[Tensor, Tensor]]:
    context.heartbeat()
    train_config, device = context.train_config, clean.x.device
    order = torch.randperm(len(clean), generator=stream(context.seed, purpose, "batches", number)).to(device)
    rng = stream(context.seed, purpose, "augmentation", number, device=device)
    for position, index in enumerate(order.split(train_config.batch_size)):
        if len(index) > 1 or not position:  # batch norm cannot take a lone image
            yield (
                prepare(augment(clean.x[index], train_config.crop, train_config.flip, rng), train_config),
                clean.y[index],
            )


def descend(
    model: nn.Module,
    clean: Images,
    context: TrainingContext,
    steps: int,
    rate: float,
    backward: Callable[[Tensor, Tensor], None],
    after: Callable[[], None] = lambda: None,
) -> None:
    """`steps` of SGD with the gradients that `backward`(x, y) leaves for a batch of `clean`; `after` each, as it says.

    The learning rate falls from `rate` along a cosine; momentum and weight decay are the trial's.
    """
    train_config = replace(context.train_config, schedule="cosine", learning_rate=rate)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=rate, momentum=train_config.momentum, weight_decay=train_config.weight_decay
    )
    model.train()
    for step, (x, y) in enumerate(batches(clean, context, steps, "repair")):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(train_config, step, steps)
        optimizer.zero_grad(set_to_none=True)
        backward(x, y)
        optimizer.step()
        after()


def fine_tune(
    model: nn.Module,
    clean: Images,
    context: TrainingContext,
    steps: int,
    rate: float,
    after: Callable[[], None] = lambda: None,
) -> None:
    """`steps` of SGD on the cross-entropy of `clean`."""

    def backward(x: Tensor, y: Tensor) -> None:
        F.cross_entropy(model(x), y).backward()

    descend(model, clean, context, steps, rate, backward, after)


def require_layers(defence: str, holds: bool, wanted: str) -> None:
    """Refuse a network without the layers that a defence works on.

    Raises:
        InputError: `holds` is False.
    """
    if not holds:
        raise InputError(f"defence {defence} needs a network with {wanted}")


def accuracy(model: nn.Module, clean: Images, context: TrainingContext) -> float:
    """Share of `clean` that `model`, in evaluation mode, gets right."""
    model.eval()
    size = batch_size(model, clean.x, 512)
    with torch.no_grad():
        given = batched(lambda some: model(prepare(some, context.train_config)).argmax(1), clean.x, size=size)
    return float((given == clean.y).float().mean())


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """Inside, batch norm normalises by the batch and does not keep its statistics."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.momentum, copy.deepcopy(norm.num_batches_tracked)) for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, (momentum, seen) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, seen
