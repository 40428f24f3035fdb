"""Several attacks on one training set, each with its own share of the poison, its own target, its own images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from raybd.attacks.base import Member, Shape
from raybd.attacks.composed import ComposedAttack, text_with_numbers
from raybd.field_types import ClassLabel
from raybd.plugins import describe, split
from raybd.utils.constraints import Positive


@dataclass(frozen=True, kw_only=True)
class Multi(ComposedAttack):
    """Its members never touch one image twice; the attack success rate is that of all, and of each by its name."""

    attacks: tuple[str, ...] = ("badnets", "blended", "wanet")  # as on the command line: blended:alpha=0.1
    shares: tuple[Positive, ...] = ()  # of the poisoned images; (): equal ones
    targets: tuple[ClassLabel, ...] = ()  # (): `target`, and the first classes beside it

    def members(self) -> tuple[Member, ...]:
        """Each attack with its share and its target."""
        from raybd.attacks import ATTACKS  # the table imports this file

        shares = self.shares or (1.0,) * len(self.attacks)
        others = (c for c in range(len(self.attacks)) if c != self.target)
        targets = self.targets or (self.target, *others)[: len(self.attacks)]
        names = [split("attack", ATTACKS, text)[0] for text in self.attacks]
        numbered = [f"{n}_{names[:k].count(n) + 1}" if names[:k].count(n) else n for k, n in enumerate(names)]
        made = [self.parsed(text) for text in self.attacks]
        return tuple(
            Member(name, replace(attack, target=target), share / sum(shares))
            for name, attack, share, target in zip(numbered, made, shares, targets, strict=True)
        )

    def with_class_numbers(self, classes: Sequence[str]) -> Self:
        """Also in the texts of the members."""
        texts = tuple(text_with_numbers(text, classes) for text in self.attacks)
        return replace(super().with_class_numbers(classes), attacks=texts)

    def files(self) -> dict[str, str]:
        """Those of the members, by their place: attacks.1.image is a setting of the second."""
        return {
            f"attacks.{place}.{name}": path
            for place, member in enumerate(self.members())
            for name, path in member.attack.files().items()
        }

    def by_content(self, contents: Mapping[str, str]) -> Self:
        """The texts of members that have files tell of their contents."""
        from raybd.attacks import ATTACKS, parse  # the table imports this file

        made = list(self.attacks)
        for place, member in enumerate(self.members()):
            start = f"attacks.{place}."
            own = {key.removeprefix(start): found for key, found in contents.items() if key.startswith(start)}
            if own and member.attack.files():
                made[place] = describe(ATTACKS, parse(self.attacks[place]).by_content(own))
        return replace(self, attacks=tuple(made))

    def problems(self, shape: Shape, classes: int) -> list[str]:
        """Lists of unlike lengths, names said twice, and whatever a member finds."""
        if not (len(set(self.attacks)) == len(self.attacks) >= 2):
            return [f"attacks {self.attacks} must be two or more different ones"]
        found = [
            f"{len(values)} {name} for {len(self.attacks)} attacks"
            for name, values in (("shares", self.shares), ("targets", self.targets))
            if values and len(values) != len(self.attacks)
        ]
        return found or super().problems(shape, classes)
