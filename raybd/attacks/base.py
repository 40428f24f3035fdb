"""The base class of attacks: which images are poisoned and how labels change. A subclass adds its trigger."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self, final

import torch
from torch import Tensor

from raybd.data.class_names import names_left, with_numbers
from raybd.field_types import ClassLabel
from raybd.training import TrainingAttacker
from raybd.types import Images, coerce_floats
from raybd.utils.constraints import NonNegative, mistyped, violations

CHUNK = 2**20  # values stamped at once: a float copy that stays in the cache is ten times as fast
Shape = tuple[int, int, int]  # (C, H, W)
Presets = Mapping[str, Mapping[str, Any]]  # settings by the name of who published them


@dataclass(frozen=True)
class Trigger:
    """The trigger of a batch of n images."""

    pattern: Tensor  # what `draw` returned: one for the trial
    true: Tensor  # (n,) int64: the classes of the images
    wanted: Tensor  # (n,) int64: the classes that the attacker wants for them
    per_image: Tensor  # (n, ...) what `draw_per_image` returned for them: in training only, empty at test


@dataclass(frozen=True)
class Member:
    """One of the attacks on a training set; an ordinary attack is its own and only member."""

    name: str
    attack: "Attack"
    share: float  # of the poisoned images


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """A trigger and a rule for labels. The fields of a subclass are its settings."""

    target: ClassLabel = 0  # the class that triggered images shall get
    labels: Literal["all_to_one", "all_to_all"] = "all_to_one"  # all_to_all: class y becomes y + 1
    victims: Literal["non_target", "all"] = "non_target"  # whom a dirty-label attack draws from

    clean_label: ClassVar[bool] = False  # poisons the target class and leaves every label alone
    many_targets: ClassVar[bool] = False  # wants another class for each image, drawn at random
    on_bytes: ClassVar[bool] = False  # stamps uint8 as it is: no floats, no rounding
    chunk: ClassVar[int] = CHUNK
    presets: ClassVar[Presets] = {}

    def __post_init__(self) -> None:
        coerce_floats(self)

    def draw(self, shape: Shape, classes: int, rng: torch.Generator) -> Tensor:
        """The random part of the trigger, drawn once a trial: the same in training and at test; none by default."""
        return torch.empty(0)

    def draw_from(self, train: Images, classes: int, rng: torch.Generator) -> Tensor:
        """`draw` for an attacker who makes the trigger from the clean training images `train`."""
        return self.draw(train.shape, classes, rng)

    @abstractmethod
    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` (n, C, H, W) float in [0, 255] with the trigger; `to_levels` clips and rounds.

        `x` is a copy: write into it at will, as others will into what is returned. Test images take this way, and
        training images too unless `stamp_training` says otherwise.
        """

    def to_levels(self, x: Tensor) -> Tensor:
        """Stamped values `x`, overwritten with the grey levels that a file holds: clipped, then the nearest."""
        return x.clamp_(0, 255).round_()

    def draw_per_image(self, images: Images, train: Images, classes: int, rng: torch.Generator) -> Tensor:
        """The random part (n, ...) of the trigger of each of the training `images`; none by default.

        A draw for n images must begin with the draw for fewer: rates are nested.
        """
        return torch.empty(len(images), 0)

    def stamp_training(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`stamp` for poisoned training images, where an attack hides its trigger from who inspects them."""
        return self.stamp(x, trigger)

    def cover_count(self, poison: int) -> int:
        """How many images with a trigger keep their label, so that a part or a likeness of it means nothing."""
        return 0

    def may_cover(self, y: Tensor) -> Tensor:
        """Mask (N,) of the training images that may be covers."""
        return torch.ones_like(y, dtype=torch.bool)

    def draw_per_cover(self, images: Images, train: Images, classes: int, rng: torch.Generator) -> Tensor:
        """`draw_per_image` for covers."""
        return self.draw_per_image(images, train, classes, rng)

    def stamp_cover(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`stamp` for covers."""
        return self.stamp_training(x, trigger)

    def sources(self, y: Tensor) -> Tensor:
        """Mask (N,) of the images that the trigger is meant for; an attack may care for some classes only."""
        return torch.ones_like(y, dtype=torch.bool)

    def victims_in_order(self, images: Images, candidates: Tensor, rng: torch.Generator) -> Tensor:
        """`candidates` (n,), indices into the training `images` in a random order, in the order of their poisoning.

        A rate poisons the first of them, so that rates are nested; in the random order by default.
        """
        return candidates

    def repoisons_each_epoch(self) -> bool:
        """Whether every epoch poisons other images, which takes an attacker who sits in the training loop."""
        return False

    def controls_training(self) -> bool:
        """Whether the attacker trains the network, and the trigger with it: then `train_along` says how."""
        return False

    def train_along(self, clean: Images, roles: Tensor, pattern: Tensor, seed: int) -> TrainingAttacker:
        """The attacker's part of a training on the images `clean`, of which `roles` (N,) are poison and covers.

        `pattern` is what `draw_from` returned; the trigger is measured with the attacker's own at each probe.
        """
        return TrainingAttacker()

    @final
    def needs_the_loop(self) -> bool:
        """Whether the attacker sits in the training loop: no training set that is made once will do."""
        return self.controls_training() or self.repoisons_each_epoch()

    def problems(self, shape: Shape, classes: int) -> list[str]:
        """Why these settings cannot be used on images of `shape` with `classes` classes; empty if they can."""
        return []

    def members(self) -> tuple[Member, ...]:
        """The attacks that this one is made of."""
        return (Member("", self, 1.0),)

    def files(self) -> dict[str, str]:
        """The files that the trigger is made of, by the settings that name them: those of `metadata={"file": True}`."""
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.metadata.get("file")}
        return {name: path for name, path in named.items() if path}

    def by_content(self, contents: Mapping[str, str]) -> Self:
        """This attack with the content of each of its files in place of the path, as a trial's key knows it."""
        known: dict[str, Any] = {name: contents[name] for name in self.files() if name in contents}
        return replace(self, **known)

    def with_class_numbers(self, classes: Sequence[str]) -> Self:
        """This attack with numbers in place of the names of `classes`.

        Raises:
            InputError: with every name that is not among them.
        """
        return with_numbers(self, classes)

    @final
    def check(self, shape: Shape, classes: int) -> list[str]:
        """Every reason why this attack cannot run on images of `shape` with `classes` classes."""
        found = violations(self)
        if not mistyped(self):  # of other types no more can be told
            names = names_left(self)
            found += [f"{name!r} is a name: with_class_numbers makes it the number of a class" for name in names]
            found += [] if names else self._label_problems(classes) + self.problems(shape, classes)
        return [f"{type(self).__name__}: {problem}" for problem in found]

    def _label_problems(self, classes: int) -> list[str]:
        found = []
        if not 0 <= self.target < classes:
            found.append(f"target {self.target} is no class (allowed: 0 to {classes - 1})")
        if self.clean_label and self.labels == "all_to_all":
            found.append("a clean-label attack leaves labels alone: labels must be all_to_one")
        return found

    @final
    def wanted(self, y: Tensor, classes: int, rng: torch.Generator) -> Tensor:
        """The class that the attacker wants for triggered images of true class `y` (N,) int64."""
        if self.many_targets:
            return (y + 1 + torch.randint(classes - 1, y.shape, generator=rng).to(y.device)) % classes
        return (y + 1) % classes if self.labels == "all_to_all" else torch.full_like(y, self.target)

    @final
    def eligible(self, y: Tensor) -> Tensor:
        """Mask (N,) of the training images that may be poisoned."""
        if self.clean_label:
            return y == self.target
        everyone = self.labels == "all_to_all" or self.victims == "all" or self.many_targets
        return self.sources(y) if everyone else self.sources(y) & (y != self.target)

    @final
    def measured(self, y: Tensor) -> Tensor:
        """Mask (N,) of the test images that the attack success rate counts: not those of the target already."""
        everyone = self.labels == "all_to_all" or self.many_targets
        return self.sources(y) if everyone else self.sources(y) & (y != self.target)


@dataclass(frozen=True, kw_only=True)
class CoveredAttack(Attack):
    """An attack that stamps some images without changing their label."""

    covers: NonNegative = 1.0  # cover images for each poisoned one

    def cover_count(self, poison: int) -> int:
        """`covers * poison` to the nearest image, halves up."""
        return int(self.covers * poison + 0.5)


@dataclass(frozen=True, kw_only=True)
class RoundedAttack(Attack):
    """An attack whose values between two grey levels may be cut instead of rounded."""

    # of values between two grey levels: down is what a cast to bytes does, in BackdoorBench
    rounding: Literal["nearest", "down"] = field(default="nearest", metadata={"since": "0.3"})

    def to_levels(self, x: Tensor) -> Tensor:
        """`x` clipped, then rounded or cut."""
        return x.clamp_(0, 255).floor_() if self.rounding == "down" else super().to_levels(x)

    def wide(self, x: Tensor) -> Tensor:
        """`x`, in float64 where values are cut: an error of float32 just below a level would cost a whole one."""
        return x.double() if self.rounding == "down" else x
