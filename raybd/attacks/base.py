"""What every attack shares: who is poisoned, how labels change, what 8 bits keep. An attack writes its trigger only."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from raybd.types import settle_floats

CHUNK = 2**20  # values stamped at once: a float copy that stays in the cache is ten times as fast


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """A trigger and a rule for labels. The fields of a subclass are its settings."""

    target: int = 0  # the class that triggered images shall get
    labels: Literal["all_to_one", "all_to_all"] = "all_to_one"  # all_to_all: class y becomes y + 1
    victims: Literal["non_target", "all"] = "non_target"  # whom a dirty-label attack draws from

    clean_label: ClassVar[bool] = False  # poisons the target class and leaves every label alone

    def __post_init__(self) -> None:
        settle_floats(self)

    def draw(self, shape: tuple[int, int, int], rng: torch.Generator) -> Tensor:
        """The random part of the trigger for images of `shape`, drawn once a trial; none by default."""
        return torch.empty(0)

    @abstractmethod
    def stamp(self, x: Tensor, trigger: Tensor) -> Tensor:
        """`x` (N, C, H, W) float in [0, 255] with the trigger; clipping and rounding are not its business.

        `trigger` is what `draw` returned. Training and test images take this same way.
        """

    def problems(self, shape: tuple[int, int, int], classes: int) -> list[str]:
        """Why these settings make no sense on images of `shape` with `classes` classes; empty if they do."""
        return []

    @final
    def check(self, shape: tuple[int, int, int], classes: int) -> list[str]:
        """Every reason why this attack cannot run on images of `shape` with `classes` classes."""
        found = []
        if not 0 <= self.target < classes:
            found.append(f"target {self.target} is no class (allowed: 0 to {classes - 1})")
        if self.labels not in ("all_to_one", "all_to_all"):
            found.append(f"unknown labels {self.labels!r} (known: all_to_one, all_to_all)")
        if self.victims not in ("non_target", "all"):
            found.append(f"unknown victims {self.victims!r} (known: all, non_target)")
        if self.clean_label and self.labels == "all_to_all":
            found.append("a clean-label attack leaves labels alone: labels must be all_to_one")
        return found + self.problems(shape, classes)

    @final
    def apply(self, x: Tensor, trigger: Tensor) -> Tensor:
        """`x` (N, C, H, W) uint8 with the trigger, clipped and rounded to what a file would hold (uint8)."""
        parts = (
            self.stamp(part.float(), trigger).clamp(0, 255).round().to(torch.uint8)
            for part in x.split(max(1, CHUNK // max(1, x[:1].numel())))
        )
        return torch.cat(list(parts)) if len(x) else x

    @final
    def wanted(self, y: Tensor, classes: int) -> Tensor:
        """The class that the attacker wants for triggered images of true class `y` (N,) int64."""
        return (y + 1) % classes if self.labels == "all_to_all" else torch.full_like(y, self.target)

    @final
    def eligible(self, y: Tensor) -> Tensor:
        """Mask (N,) of the training images that may be poisoned."""
        if self.clean_label:
            return y == self.target
        if self.labels == "all_to_all" or self.victims == "all":
            return torch.ones_like(y, dtype=torch.bool)
        return y != self.target

    @final
    def measured(self, y: Tensor) -> Tensor:
        """Mask (N,) of the test images that the attack success rate counts: not those of the target already."""
        return torch.ones_like(y, dtype=torch.bool) if self.labels == "all_to_all" else y != self.target
