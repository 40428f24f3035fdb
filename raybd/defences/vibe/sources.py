"""Where VIBE's features come from, as a setting names it."""

from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from raybd.errors import InputError
from raybd.models import Classifier
from raybd.models.torchvision_model import PREFIX
from raybd.pretraining import FrozenBackbone
from raybd.utils.files import expanded

Kind = Literal["simclr", "nnclr", "own", "npy", "torchvision"]
ALLOWED = "simclr, nnclr, own, npy:FILE, torchvision:NAME:FILE"
ANY_SHAPE = (1, 32, 32)  # of images to a torchvision network, which resizes them and repeats one channel


@dataclass(frozen=True)
class Source:
    """A kind of features, and the file that holds them or the weights of the network `name`."""

    kind: Kind
    name: str = ""
    file: str = ""

    @property
    def learnt(self) -> bool:
        """Whether the features are those of the trial's own network; of a file they stay as they are."""
        return not self.file

    def with_file(self, file: str) -> str:
        """The setting, of another `file`."""
        return ":".join(part for part in (self.kind, self.name, file) if part)


def parse_source(text: str) -> Source:
    """The source that the setting `text` names.

    Raises:
        InputError: it names none.
    """
    kind, _, rest = text.partition(":")
    name, _, file = rest.partition(":")
    if text in ("simclr", "nnclr", "own"):
        return Source(cast(Kind, text))
    if kind == "npy" and rest:
        return Source("npy", file=rest)
    if kind == "torchvision" and name and file:
        return Source("torchvision", name, file)
    raise InputError(f"features must be one of {ALLOWED}, got {text!r}")


class Rows(Classifier):
    """In the place of a backbone: D features that are known of the training images alone."""

    def __init__(self, size: int, classes: int) -> None:
        super().__init__((0.0,), (1.0,))
        self.head = nn.Linear(size, classes)

    def features(self, x: Tensor) -> Tensor:
        """None.

        Raises:
            InputError: always: there are rows of a file, and no network that would compute others.
        """
        raise InputError("features of a file are known of the training images alone")


def frozen_network(source: Source, classes: int) -> FrozenBackbone:
    """The torchvision network of `source`, on the CPU.

    Raises:
        InputError: there is no such network or file, or they do not fit.
    """
    with torch.device("cpu"):  # a sketch is built on "meta"
        return FrozenBackbone(f"{PREFIX}{source.name}", ANY_SHAPE, classes, weights=source.file)


def row_problems(file: str, count: int) -> list[str]:
    """Why the array in `file` has no rows of features for `count` training images."""
    try:
        held = np.load(expanded(file), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        return [f"the features in {file} cannot be read: {error}"]
    if not isinstance(held, np.ndarray) or held.ndim != 2 or held.dtype.kind not in "fiu":
        return [f"{file} must hold one array of numbers (N, D), as numpy.save writes it"]
    if len(held) != count:
        return [f"{file} has {len(held)} rows, and the trial trains on {count} images, in the data set's order"]
    return []


def read_rows(file: str) -> Tensor:
    """The features (N, D) float32 in `file`."""
    return torch.from_numpy(np.ascontiguousarray(np.load(expanded(file), allow_pickle=False), dtype=np.float32))
