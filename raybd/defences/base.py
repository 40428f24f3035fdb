"""What every defence is: a way to train on a set that may be poisoned."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from raybd.training import Checkpoint, Epoch, TrainConfig
from raybd.types import Images


@dataclass(frozen=True, kw_only=True)
class Defence(ABC):
    """A way to train. The fields of a subclass are its settings; it never sees which images are poisoned."""

    @abstractmethod
    def train(
        self, model: nn.Module, images: Images, how: TrainConfig, seed: int, checkpoint: Checkpoint | None
    ) -> Iterator[Epoch]:
        """Train `model` in place on `images`, yielding after every epoch, resuming from `checkpoint`."""
