"""Train as if nothing were wrong, then repair: what all defences after training share."""

import copy
import itertools
import math
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
from raybd.defences.base import Access, Defence, Scene
from raybd.defences.cost import counted
from raybd.errors import DivergedError, InputError
from raybd.models.noise import own_draws
from raybd.seeds import stream
from raybd.training import Epoch, augment, fit, learning_rate, prepare
from raybd.types import Images

Numbers = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class PostTraining(Defence):
    """The plain training loop; the network is repaired after its last epoch, before that is measured.

    The last epoch's numbers tell what the repair cost: passes over a set as large as the training set, forward and
    back (a pass forward alone is a third of one); seconds; and the clean images that it was given.
    """

    parallel: ClassVar[bool] = True  # but for the repair

    def train(self, scene: Scene) -> Iterator[Epoch]:
        """Training as no defence does it, the last epoch with the repair."""
        for epoch in fit(scene.model, scene.images, scene.how, scene.seed, scene.checkpoint, scene.workers):
            yield replace(epoch, numbers=epoch.numbers | self.timed(scene)) if epoch.last else epoch

    @abstractmethod
    def mend(self, scene: Scene) -> Numbers:
        """Repair `scene.model`, and say something of it, "defence/extra_images" at least."""

    def timed(self, scene: Scene) -> Numbers:
        """The repair with what it cost.

        Raises:
            DivergedError: it left weights that are no numbers.
        """
        start, device = time.perf_counter(), scene.images.x.device
        with own_draws(scene.seed, "repair", device=device), counted(scene.model) as passed:
            numbers = self.mend(scene)
        if not all(bool(part.isfinite().all()) for part in scene.model.parameters()):
            raise DivergedError("the repair left weights that are no numbers")
        cost = {"passes": passed[0] / len(scene.images), "seconds": time.perf_counter() - start}
        return numbers | {f"defence/{name}": value for name, value in cost.items()}


@dataclass(frozen=True, kw_only=True)
class CleanRepair(PostTraining):
    """A repair with clean images, which are drawn from those that the trial has set aside."""

    budget: float = 0.05  # clean images, as a share of the training set before any were set aside

    access: ClassVar[Access] = "clean images"
    above: ClassVar[tuple[str, ...]] = ()  # settings that must be above 0
    shares: ClassVar[tuple[str, ...]] = ()  # settings that must be in [0, 1]

    @abstractmethod
    def repair(self, model: nn.Module, clean: Images, scene: Scene) -> Numbers:
        """Repair `model`, in place, with the images `clean`; what is said of it beside the costs."""

    @property
    def clean_share(self) -> float:
        """The budget."""
        return self.budget

    def mend(self, scene: Scene) -> Numbers:
        """Draw the clean images, and repair."""
        clean = drawn(scene, self.budget)
        return self.repair(scene.model, clean, scene) | {"defence/extra_images": float(len(clean))}

    def problems(self, shape: tuple[int, int, int], classes: int) -> list[str]:
        """Settings out of their range."""
        name = type(self).__name__
        values = {key: getattr(self, key) for key in ("budget", *self.above, *self.shares)}
        found = [] if 0 < self.budget < 1 else [f"{name}: budget must be above 0 and below 1, got {self.budget:g}"]
        found += [
            f"{name}: {key} must be above 0 and finite, got {values[key]:g}"
            for key in self.above
            if not 0 < values[key] < math.inf
        ]
        outside = [key for key in self.shares if not 0 <= values[key] <= 1]
        return found + [f"{name}: {key} must be in [0, 1], got {values[key]:g}" for key in outside]


def drawn(scene: Scene, budget: float) -> Images:
    """`budget` of the whole training set in clean images, each class its share, from the stream "budget".

    Raises:
        ValueError: the trial has set none aside.
    """
    if scene.trusted is None:
        raise ValueError("a repair with clean images must be given some")
    total = len(scene.images) + len(scene.trusted)
    share = min(1.0, budget * total / len(scene.trusted))
    mask = stratified(scene.trusted.y.cpu(), share, stream(scene.seed, "budget"))
    return scene.trusted.take(mask.nonzero()[:, 0].to(scene.trusted.x.device))


def batches(clean: Images, scene: Scene, steps: int, purpose: str) -> Iterator[tuple[Tensor, Tensor]]:
    """`steps` batches of `clean`, shuffled and augmented as in training: x (B, C, H, W) float in [0, 1] and y (B,)."""
    pieces = itertools.chain.from_iterable(_epoch(clean, scene, number, purpose) for number in itertools.count(1))
    return itertools.islice(pieces, steps)


def _epoch(clean: Images, scene: Scene, number: int, purpose: str) -> Iterator[tuple[Tensor, Tensor]]:
    scene.beat()
    how, device = scene.how, clean.x.device
    order = torch.randperm(len(clean), generator=stream(scene.seed, purpose, "batches", number)).to(device)
    rng = stream(scene.seed, purpose, "augmentation", number, device=device)
    for position, index in enumerate(order.split(how.batch_size)):
        if len(index) > 1 or not position:  # batch norm cannot take a lone image
            yield prepare(augment(clean.x[index], how.crop, how.flip, rng), how), clean.y[index]


def descend(
    model: nn.Module,
    clean: Images,
    scene: Scene,
    steps: int,
    rate: float,
    backward: Callable[[Tensor, Tensor], None],
    after: Callable[[], None] = lambda: None,
) -> None:
    """`steps` of SGD with the gradients that `backward`(x, y) leaves for a batch of `clean`; `after` each, as it says.

    The learning rate falls from `rate` along a cosine; momentum and weight decay are the trial's.
    """
    how = replace(scene.how, schedule="cosine", learning_rate=rate)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=how.momentum, weight_decay=how.weight_decay)
    model.train()
    for step, (x, y) in enumerate(batches(clean, scene, steps, "repair")):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(how, step, steps)
        optimizer.zero_grad(set_to_none=True)
        backward(x, y)
        optimizer.step()
        after()


def fine_tune(
    model: nn.Module,
    clean: Images,
    scene: Scene,
    steps: int,
    rate: float,
    after: Callable[[], None] = lambda: None,
) -> None:
    """`steps` of SGD on the cross-entropy of `clean`."""

    def backward(x: Tensor, y: Tensor) -> None:
        F.cross_entropy(model(x), y).backward()

    descend(model, clean, scene, steps, rate, backward, after)


def require_layers(defence: str, holds: bool, wanted: str) -> None:
    """Refuse a network without the layers that a defence works on.

    Raises:
        InputError: `holds` is False.
    """
    if not holds:
        raise InputError(f"defence {defence} needs a network with {wanted}")


def accuracy(model: nn.Module, clean: Images, scene: Scene) -> float:
    """Share of `clean` that `model`, in evaluation mode, gets right."""
    model.eval()
    with torch.no_grad():
        right = [
            model(prepare(x, scene.how)).argmax(1) == y
            for x, y in zip(clean.x.split(512), clean.y.split(512), strict=True)
        ]
    return float(torch.cat(right).float().mean())


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
