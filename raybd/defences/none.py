"""No defence: ordinary training."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from raybd.defences.base import Defence
from raybd.training import Checkpoint, Epoch, TrainConfig, fit
from raybd.types import Images


@dataclass(frozen=True, kw_only=True)
class NoDefence(Defence):
    """Trains on everything as it comes."""

    def train(
        self, model: nn.Module, images: Images, how: TrainConfig, seed: int, checkpoint: Checkpoint | None
    ) -> Iterator[Epoch]:
        """The plain training loop."""
        return fit(model, images, how, seed, checkpoint)
