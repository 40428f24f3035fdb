"""No attack: the clean control."""

from dataclasses import dataclass

from torch import Tensor

from raybd.attacks.base import Attack, Trigger


@dataclass(frozen=True, kw_only=True)
class NoAttack(Attack):
    """Leaves every image alone; only a poison rate of 0 makes sense with it."""

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` itself."""
        return x
