"""From (attack, settings, seed) to a poisoned set: kilobytes that say everything, applied in one batched pass."""

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from raybd.attacks.base import Attack
from raybd.seeds import stream
from raybd.types import POISON, Images, Poisoned


@dataclass(frozen=True)
class Recipe:
    """Which images are poisoned and how; the same recipe on the same data gives the same bits anywhere."""

    attack: Attack
    rate: float  # poisoned images / whole training set
    seed: int

    def count(self, n: int) -> int:
        """How many of `n` training images are poisoned: `rate * n` to the nearest image, halves up."""
        return int(self.rate * n + 0.5)

    def check(self, y: Tensor) -> list[str]:
        """Every reason why this rate cannot be had from training labels `y` (N,)."""
        if not 0 <= self.rate <= 1:
            return [f"poison rate {self.rate:g} is no share (allowed: 0 to 1)"]
        count, eligible = self.count(len(y)), int(self.attack.eligible(y).sum())
        if self.rate > 0 and count == 0:
            return [f"poison rate {self.rate:g} of {len(y)} images poisons nobody (the least rate is {1 / len(y):.2g})"]
        if count > eligible:
            return [
                f"poison rate {self.rate:g} asks for {count} images, but only {eligible} of {len(y)} may be poisoned "
                f"(the largest rate is {eligible / len(y):.4g})"
            ]
        return []

    def victims(self, y: Tensor) -> Tensor:
        """Indices of the poisoned images, nested: those of a smaller rate are among those of a larger one."""
        eligible = self.attack.eligible(y.cpu()).nonzero().squeeze(1)
        order = torch.randperm(len(eligible), generator=stream(self.seed, "victims"))
        return eligible[order[: self.count(len(y))]].sort().values

    def trigger(self, shape: tuple[int, int, int]) -> Tensor:
        """The random part of the trigger, the same for training and test."""
        return self.attack.draw(shape, stream(self.seed, "trigger"))

    def poison(self, images: Images, classes: int) -> Poisoned:
        """The training set that the victim gets: triggers stamped and labels changed, all else untouched."""
        index = self.victims(images.y).to(images.x.device)
        x, y, roles = images.x.clone(), images.y.clone(), torch.zeros_like(images.y, dtype=torch.uint8)
        x[index] = self._stamped(images.x[index])
        if not self.attack.clean_label:
            y[index] = self.attack.wanted(images.y[index], classes)
        roles[index] = POISON
        return Poisoned(Images(x, y), roles, images.y)

    def triggered(self, images: Images, classes: int) -> Images:
        """Every one of `images` with the trigger, labelled with what the attacker wants of it."""
        return replace(images, x=self._stamped(images.x), y=self.attack.wanted(images.y, classes))

    def _stamped(self, x: Tensor) -> Tensor:
        shape = (int(x.shape[1]), int(x.shape[2]), int(x.shape[3]))
        return self.attack.apply(x, self.trigger(shape).to(x.device))


def digest(x: Tensor) -> str:
    """The first 16 hex digits of the SHA-256 of a tensor's bytes."""
    return hashlib.sha256(x.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]
