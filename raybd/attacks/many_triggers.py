"""Many triggers for one target: each is in a small part of the poison, and each opens the backdoor."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Interval

from raybd.attacks.base import Member, Shape
from raybd.attacks.composed import AroundAttack


@dataclass(frozen=True, kw_only=True)
class ManyTriggers(AroundAttack):
    """`count` attacks of one kind, each with a random pattern of its own on an equal share of the poison (ours).

    A defence that looks for one cluster or one pattern finds many small ones. The attack success rate is the mean over
    the triggers; `attack_success/trigger_K` is that of each, `attack_success/any` the share of test images for which
    some trigger works. (`universal` is the opposite: one trigger that names every class.)
    """

    count: Annotated[int, Interval(ge=2, le=255)] = 8

    def members(self) -> tuple[Member, ...]:
        """The same attack `count` times: each draws its pattern from a stream of its own."""
        attack = self.parsed(self.trigger)
        return tuple(Member(f"trigger_{k + 1}", attack, 1 / self.count) for k in range(self.count))

    def problems(self, shape: Shape, classes: int) -> list[str]:
        """What the attack finds; one without a random pattern, of which all triggers would be one."""
        if found := super().problems(shape, classes):
            return found
        attack = self.parsed(self.trigger)
        one, other = (attack.draw(shape, classes, torch.Generator().manual_seed(seed)) for seed in (0, 1))
        return [f"{self.trigger} draws no pattern: its triggers would all be alike"] * torch.equal(one, other)
