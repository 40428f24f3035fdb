"""The nouns every other module shares."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cache
from numbers import Real
from typing import Any, Protocol, get_type_hints

import torch
from torch import Tensor, nn

from raybd.errors import InputError
from raybd.pixels import part_of

CLEAN, POISON, COVER = 0, 1, 2  # roles of a training image


def coerce_floats(config: Any) -> None:
    """Make whole numbers in the float fields of a frozen dataclass floats: 0 and 0.0 are one setting with one key."""
    cls: Any = type(config)
    for name, several in _float_fields(cls):
        given = getattr(config, name)
        made = tuple(map(_as_float, given)) if several and isinstance(given, tuple | list) else _as_float(given)
        object.__setattr__(config, name, made)


def _as_float(value: Any) -> Any:
    """A number as a float; what is none is left for `fits` to find."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return value
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf


@cache  # a sweep asks ten thousands of times
def _float_fields(cls: Any) -> list[tuple[str, bool]]:
    """The names of the float fields of a dataclass, and whether each holds several."""
    several: dict[Any, bool] = {float: False, float | None: False, tuple[float, ...]: True}
    hints = get_type_hints(cls)  # without the bounds of Annotated
    return [(f.name, several[hints[f.name]]) for f in fields(cls) if hints[f.name] in several]


@dataclass(frozen=True)
class Images:
    """Labelled images: `x` (N, C, H, W) uint8 in 0-255 and `y` (N,) int64.

    Of a set that is streamed, `raybd.pixels.Pixels` stand for the tensor `x`.
    """

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        if self.x.dtype != torch.uint8 or self.x.ndim != 4:
            raise ValueError(f"images must be uint8 (N, C, H, W), got {self.x.dtype} {tuple(self.x.shape)}")
        if self.y.dtype != torch.int64 or self.y.shape != self.x.shape[:1]:
            raise ValueError(f"labels must be int64 ({len(self.x)},), got {self.y.dtype} {tuple(self.y.shape)}")

    def __len__(self) -> int:
        return len(self.y)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.x.shape[1:]
        return channels, height, width

    def take(self, index: Tensor) -> "Images":
        """The images at `index` (any index tensor over N), in that order."""
        return Images(self.x[index], self.y[index])

    def part(self, index: Tensor) -> "Images":
        """As `take`, for many images: those of a set that is streamed are not read yet."""
        return Images(part_of(self.x, index), self.y[index])

    def to(self, device: str | torch.device) -> "Images":
        """The same images on `device`; no copy where they are there already."""
        return Images(self.x.to(device), self.y.to(device))

    def at(self, epoch: int) -> "Images":
        """The images that a training sees in `epoch` (from 1): always these, unless an attacker renews them."""
        return self


@dataclass(frozen=True)
class Origin:
    """What `raybd.data.load` was given: on another machine it has the same images."""

    name: str
    root: str
    resize: int


@dataclass(frozen=True)
class Data:
    """A data set: its two halves, its class names, and the hash that tells it from any other."""

    name: str
    train: Images
    test: Images
    classes: tuple[str, ...]
    fingerprint: str
    mean: tuple[float, ...]  # of each channel over the training images, in [0, 1]
    std: tuple[float, ...]
    validation: Images | None = None
    origin: Origin | None = None

    def to(self, device: str | torch.device) -> "Data":
        """The same data on `device`."""
        validation = None if self.validation is None else self.validation.to(device)
        return replace(self, train=self.train.to(device), test=self.test.to(device), validation=validation)


@dataclass(frozen=True)
class Poisoned:
    """A poisoned training set: what the learner sees, and what it does not."""

    images: Images
    roles: Tensor  # (N,) uint8: CLEAN, POISON or COVER
    true: Tensor  # (N,) int64: the labels before poisoning
    member: Tensor  # (N,) uint8: which attack touched an image, where one trial has several
    triggers: tuple[str, ...]  # hashes of the random part of each member's trigger as used here
    manifest: dict[str, Any] = field(default_factory=dict)


class TestTrigger(Protocol):
    """The trigger as it is stamped at test, for any images; of an attack of several, that of each member in turn."""

    def triggered(self, images: Images, classes: int) -> Images:
        """All of `images` (N) with each member's trigger, labelled with what the attacker wants: (members x N)."""

    def measured(self, y: Tensor) -> Tensor:
        """Mask (members x N,) of those that the attack success rate would count, of images of classes `y` (N,)."""


@dataclass(frozen=True)
class MetricContext:
    """What a metric may look at, at one probe of a trial."""

    model: nn.Module  # in evaluation mode
    data: Data  # as the trial uses it: with the validation images taken out of the training set
    poisoned: Poisoned
    triggered: Images  # every test image with the trigger, labelled with what the attacker wants of it
    measured: Tensor  # (N,) mask of the triggered images that the attack success rate counts
    clean_logits: Tensor  # (N, K) float32, of the test images
    triggered_logits: Tensor  # (N, K) float32
    validation_logits: Tensor | None = None
    triggered_validation: Images | None = None  # the images set aside, with the trigger, likewise labelled
    triggered_validation_logits: Tensor | None = None
    members: tuple[str, ...] = ("",)  # of an attack of several: `triggered` holds the test set once for each
    seed: int = 0  # the trial's: a metric draws from its own streams of it
    epoch: int = 1
    last: bool = True
    twin: nn.Module | None = None  # the clean twin's network at this epoch, where a metric needs it
    trigger: TestTrigger | None = None  # where there is an attack
    heartbeat: Callable[[], None] = lambda: (
        None
    )  # to be called now and then in a long measurement: who does not is hung

    def clean_twin(self, metric: str) -> nn.Module:
        """The clean twin's network, for the metric of this name.

        Raises:
            InputError: the trial has no clean twin.
        """
        if self.twin is None:
            raise InputError(f"{metric} needs the clean twin, and this trial came without it")
        return self.twin

    @property
    def clean_images(self) -> Images:
        """Images that no attack has touched: those set aside, or the training set before it was poisoned."""
        return self.data.train if self.data.validation is None else self.data.validation


@dataclass(frozen=True)
class Report:
    """What a trial says at the end of an epoch: metric name to number, and what metrics keep of it."""

    epoch: int
    metrics: dict[str, float]
    arrays: dict[str, Tensor] = field(default_factory=dict)
    network: nn.Module | None = None  # as measured, at a probe; the training goes on with it
