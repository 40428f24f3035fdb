"""The other end of every comparison: ordinary training by someone who knows which images are poisoned."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from raybd.defences.base import FLAGGED, SUSPICION, Access, Defence, Scene
from raybd.training import Epoch, fit
from raybd.types import POISON


@dataclass(frozen=True, kw_only=True)
class Oracle(Defence):
    """Trains without the poison. No defender can; covers, whose labels are true, stay."""

    access: ClassVar[Access] = "truth"
    parallel: ClassVar[bool] = True

    def train(self, scene: Scene) -> Iterator[Epoch]:
        """The plain training loop on what is not poison."""
        if scene.roles is None:
            raise ValueError("the oracle must be told the roles of the training images")
        poison = scene.roles == POISON
        scene.findings.update({SUSPICION: poison.float(), FLAGGED: poison})
        kept = scene.images.take(~poison)
        return fit(scene.model, kept, scene.how, scene.seed, scene.checkpoint, scene.workers)
