"""No defence: ordinary training."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from raybd.defences.base import Defence, Scene
from raybd.training import Epoch, fit


@dataclass(frozen=True, kw_only=True)
class NoDefence(Defence):
    """Trains on everything as it comes."""

    parallel: ClassVar[bool] = True

    def train(self, scene: Scene) -> Iterator[Epoch]:
        """The plain training loop."""
        return fit(scene.model, scene.images, scene.how, scene.seed, scene.checkpoint, scene.workers)
