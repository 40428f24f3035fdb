"""`watch`: the early warning in a training of one's own, in plain PyTorch."""

import copy
import math
from collections.abc import Sized
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from raybd.early_warning import DEFENDER, WarningModel, misfit, read_warning, stage_due
from raybd.errors import InputError
from raybd.metrics.defender import Defender
from raybd.models import Classifier
from raybd.models.adapted import as_classifier, feature_problem
from raybd.types import Images

Given = tuple[Tensor, Tensor] | Dataset[tuple[Tensor, int]]


class Watcher:
    """The early warning of one training; `step` is called at the end of each epoch, as a learning-rate schedule's is.

    `probability`: that a backdoor takes hold in the end; None until the first part of the training has passed.
    """

    def __init__(
        self, model: nn.Module, images: Images, low: Tensor, high: Tensor, epochs: int, stages: tuple[WarningModel, ...]
    ):
        """`low` and `high` (C,): what the network is given for the bytes 0 and 255 of `images`, by channel."""
        self.model, self.images, self.epochs, self.stages = model, images, epochs, stages
        self._range = low, high
        self.epoch = 0
        self.probability: float | None = None
        self.sure = False  # whether it says yes or no, and does not abstain
        self.measures: dict[str, float] = {}  # what the warning was made from

    def step(self) -> float | None:
        """Count an epoch; print the warning after those at which it is due, and return its probability, else None."""
        self.epoch += 1
        stage = stage_due(self.stages, self.epoch, self.epochs)
        if stage is None:
            return None
        network = _classifier(self.model, self.images, *self._range)
        images = self.images.to(network.head.weight.device)
        self.measures = Defender().numbers(network, images, images, network.head.out_features, seed=0)
        self.probability = stage.probability(self.measures)
        self.sure = stage.is_sure(self.probability)
        print(f"raybd: after epoch {self.epoch} of {self.epochs}: {self}", flush=True)
        return self.probability

    def __str__(self) -> str:
        if self.probability is None or math.isnan(self.probability):
            return "no early warning"
        says = "sure" if self.sure else "not sure: it abstains"
        if other := misfit(self.stages, self.epochs):
            says += f"; {other}"
        return f"a backdoor takes hold with probability {self.probability:.2f} ({says})"


def watch(
    model: nn.Module,
    data: Given,
    *,
    epochs: int,
    warning: str | Path = DEFENDER,
    samples: int = 1000,
) -> Watcher:
    """Watch the training of `model`: after its first part a line tells how probable it is that a backdoor takes hold.

    Call `step()` of what is returned at the end of each epoch. Neither the network nor PyTorch's random numbers change.

    Args:
        model: returns logits (N, K) for images, from a linear layer at its end.
        data: the training images (N, C, H, W) and labels (N,), or a data set of such pairs, as the network is given
            them: of any range, of which 256 steps are looked at.
        epochs: how many the training has.
        warning: a file of `raybd signal NAME --fit FILE`; by default raybd's own, see docs/signal.md for its worth.
        samples: how many images are looked at, at most: the first of a random order.

    Raises:
        InputError: `data` or the network are of another form, or the file holds no early warning.
    """
    if epochs < 1:
        raise InputError(f"epochs must be at least 1, got {epochs}")
    stages = read_warning(warning)
    x, y = _pairs(data, samples)
    low, high = (getattr(x.transpose(0, 1).flatten(1), name)(1).float() for name in ("amin", "amax"))
    images = Images(_as_bytes(x, low, high), y.to(x.device))
    _classifier(model, images, low, high)  # refused now, not after hours
    return Watcher(model, images, low, high, epochs, stages)


def _pairs(data: Given, samples: int) -> tuple[Tensor, Tensor]:
    """At most `samples` images (n, C, H, W) and labels (n,) of `data`, in a random order that is always the same."""
    if isinstance(data, tuple):
        x, y = data
        if len(x) == len(y):
            order = _order(len(y), samples)
            x, y = x[order.to(x.device)], y[order.to(y.device)]
    else:
        pairs = [data[i] for i in _order(len(data) if isinstance(data, Sized) else 0, samples).tolist()]
        x = torch.stack([torch.as_tensor(image) for image, _ in pairs]) if pairs else torch.zeros(0)
        y = torch.tensor([int(label) for _, label in pairs], dtype=torch.int64)
    if x.ndim != 4 or y.ndim != 1 or len(x) != len(y) or not len(x):
        raise InputError(
            "data must be images (N, C, H, W) and labels (N,), or a data set with a length of such pairs; "
            f"got images {tuple(x.shape)} and labels {tuple(y.shape)}"
        )
    return x.detach(), y.long()


def _order(count: int, samples: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:samples]


def _as_bytes(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """`x` (N, C, H, W) as bytes, of each channel from `low` to `high`."""
    width = (high - low).clamp(min=torch.finfo(torch.float32).tiny)[:, None, None]
    return ((x.float() - low[:, None, None]) / width * 255).round().clamp(0, 255).to(torch.uint8)


class _Rescaled(nn.Module):
    """A network that is given images in [0, 1] and passes them on in the range that it was trained with."""

    low: Tensor
    width: Tensor

    def __init__(self, model: nn.Module, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("low", low[:, None, None])
        self.register_buffer("width", (high - low)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W) in [0, 1]."""
        logits: Tensor = self.model(x * self.width + self.low)
        return logits


def _classifier(model: nn.Module, images: Images, low: Tensor, high: Tensor) -> Classifier:
    """A copy of `model`, in evaluation mode, for images in [0, 1].

    Raises:
        InputError: its features cannot be told.
    """
    device = next((weight.device for weight in model.parameters()), torch.device("cpu"))
    copied = _Rescaled(copy.deepcopy(model).cpu(), low.cpu(), high.cpu()).eval()
    try:
        found = as_classifier(copied, images.shape).to(device)
    except Exception as error:  # a network of others raises what it likes
        raise InputError(f"the network cannot take images of shape {images.shape}: {error}") from error
    if not isinstance(found, Classifier):
        raise InputError(feature_problem(found))
    return found
