"""Attacks that are made of other attacks of the table: several at once, or one with other victims."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from raybd.attacks.base import Attack, Member, Shape, Trigger
from raybd.attacks.none import NoAttack
from raybd.errors import InputError
from raybd.plugins import describe


@dataclass(frozen=True, kw_only=True)
class ComposedAttack(Attack):
    """An attack whose triggers are those of its members, each of which stamps its own images."""

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        """Never called: each member stamps its own images."""
        raise NotImplementedError

    def parsed(self, text: str) -> Attack:
        """The attack written as `text`, with this attack's target, rule for labels and victims.

        Raises:
            InputError: as `raybd.attacks.parse`.
        """
        from raybd.attacks import parse  # the table imports the files of this class

        return replace(parse(text, labels=self.labels, victims=self.victims), target=self.target)

    def problems(self, shape: Shape, classes: int) -> list[str]:
        """Whatever a member finds."""
        try:
            return [p for member in self.members() for p in member_problems(member, shape, classes)]
        except InputError as error:
            return error.problems


@dataclass(frozen=True, kw_only=True)
class AroundAttack(ComposedAttack):
    """An attack around one other, written as on the command line in its setting `trigger`."""

    trigger: str = "blended"  # as on the command line: badnets:size=4

    def files(self) -> dict[str, str]:
        """Those of the attack within."""
        return {f"trigger.{name}": path for name, path in self.parsed(self.trigger).files().items()}

    def with_class_numbers(self, classes: Sequence[str]) -> Self:
        """Also in the text of the attack within."""
        made = super().with_class_numbers(classes)
        return replace(made, trigger=text_with_numbers(self.trigger, classes))

    def by_content(self, contents: Mapping[str, str]) -> Self:
        """The text of an attack that has files tells of their contents."""
        from raybd.attacks import describe  # as above

        within = self.parsed(self.trigger)
        own = {key.removeprefix("trigger."): found for key, found in contents.items()}
        return replace(self, trigger=describe(within.by_content(own))) if within.files() else self


def text_with_numbers(text: str, classes: Sequence[str]) -> str:
    """The attack written as `text` with numbers in place of names of classes; the same text where it has none."""
    from raybd.attacks import ATTACKS, parse  # as above

    attack = parse(text)
    known = attack.with_class_numbers(classes)
    return text if known == attack else describe(ATTACKS, known)


def member_problems(member: Member, shape: Shape, classes: int) -> list[str]:
    """Why an attack cannot be a member of another."""
    if isinstance(member.attack, ComposedAttack | NoAttack):
        return [f"{member.name} cannot be one of several attacks"]
    if member.attack.needs_the_loop():
        return [f"{member.name} poisons anew in every epoch, which its neighbours do not"]
    return member.attack.check(shape, classes)
