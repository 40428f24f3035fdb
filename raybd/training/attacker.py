"""An attacker who trains the network: what the training loop asks of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raybd.types import Images


class TrainingAttacker:
    """The attacker's part of a training; this one has none, and leaves every bit as it is.

    A subclass may have networks and optimisers of its own. What it draws comes from streams named by (seed, purpose,
    epoch), so that a training resumed after an epoch needs only its state.
    """

    def begin(self, epoch: int) -> None:
        """Make ready for the steps of `epoch`, from 1."""

    def batch(self, x: Tensor, index: Tensor) -> Tensor:
        """What the network sees of `x` (n, C, H, W) in [0, 1]: the images `index` (n,) of the set, augmented."""
        return x

    def objective(self, loss: Tensor) -> Tensor:
        """What is minimised in the place of the network's `loss` (), of the batch that was last."""
        return loss

    def step(self, progress: float) -> None:
        """Learn from the gradients of that objective; `progress` is the share of all steps that came before."""

    def pattern(self) -> Tensor:
        """The part of the trigger that was learnt, as it is now: that of `Trigger.pattern`."""
        return torch.empty(0)

    def state(self) -> dict[str, Any]:
        """Everything that a resumed training needs, for `torch.save`."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""


@dataclass(frozen=True)
class AttackedImages(Images):
    """Training images that an attacker stamps while the network is trained: `y` is poisoned already, `x` is not."""

    attacker: TrainingAttacker


def attacker_of(images: Images) -> TrainingAttacker:
    """Who trains along on `images`: nobody, where they are not an attacker's."""
    return images.attacker if isinstance(images, AttackedImages) else TrainingAttacker()
