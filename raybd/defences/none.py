"""No defence: ordinary training."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from raybd.defences.base import Defence, TrainingContext
from raybd.training import Epoch, fit


@dataclass(frozen=True, kw_only=True)
class NoDefence(Defence):
    """Trains on everything as it comes."""

    parallel: ClassVar[bool] = True
    after_training: ClassVar[bool] = True

    def train(self, context: TrainingContext) -> Iterator[Epoch]:
        """The plain training loop."""
        return fit(context.model, context.images, context.train_config, context.seed, context.checkpoint)
