"""The other end of every comparison: ordinary training by someone who knows which images are poisoned."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from raybd.defences.base import FLAGGED, SUSPICION, Access, Defence, TrainingContext
from raybd.training import Epoch, fit
from raybd.types import POISON


@dataclass(frozen=True, kw_only=True)
class Oracle(Defence):
    """Trains without the poison. No defender can; covers, whose labels are true, stay."""

    access: ClassVar[Access] = "truth"
    parallel: ClassVar[bool] = True

    def train(self, context: TrainingContext) -> Iterator[Epoch]:
        """The plain training loop on what is not poison."""
        if context.roles is None:
            raise ValueError("the oracle must be told the roles of the training images")
        poison = context.roles == POISON
        context.findings.update({SUSPICION: poison.float(), FLAGGED: poison})
        kept = context.images.part(~poison)
        return fit(context.model, kept, context.train_config, context.seed, context.checkpoint)
