"""PoisonSpec: attack, rate and seed, from which a poisoned training set and triggered test images are made."""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch
from torch import Tensor

from raybd.attacks.base import Attack, Shape, Trigger
from raybd.seeds import stream
from raybd.types import COVER, POISON, Images, Poisoned

TURNS = 4  # parts of the trigger that adaptive attacks deal out in turn: each block begins with the first
Stamp = Callable[[Tensor, Trigger], Tensor]


@dataclass(frozen=True)
class PoisonIndices:
    """The training images that one member of an attack poisons, and those that it uses as covers."""

    poison: Tensor  # indices; those of a smaller rate come first
    cover: Tensor  # likewise


@dataclass(frozen=True)
class RepoisonedImages(Images):
    """Training images that are poisoned anew for every epoch."""

    renew: Callable[[int], Images]

    def at(self, epoch: int) -> Images:
        """The images that the training sees in `epoch` (from 1)."""
        return self.renew(epoch)


@dataclass(frozen=True)
class PoisonSpec:
    """Which images are poisoned and how; the same spec on the same data gives the same bits anywhere."""

    attack: Attack
    rate: float  # poisoned images / whole training set
    seed: int
    epoch: int = 1  # of an attack that poisons every epoch anew

    def count(self, n: int) -> int:
        """How many of `n` training images are poisoned: `rate * n` to the nearest image, halves up."""
        return int(round(self.rate * n, 6) + 0.5)  # 0.29 * 50 is 14.499999999999998

    def counts(self, n: int) -> list[int]:
        """`count(n)` divided among the members by their shares."""
        return self._divided(self.count(n))

    def _divided(self, whole: int) -> list[int]:
        return list(_divided(whole, tuple(member.share for member in self.attack.members())))

    def check(self, y: Tensor) -> list[str]:
        """Every reason why this rate cannot be had from training labels `y` (N,)."""
        if not 0 <= self.rate <= 1:
            return [f"poison rate {self.rate:g} is no share (allowed: 0 to 1)"]
        if self.rate > 0 and 0 in self.counts(len(y)):
            least = next((k for k in range(1, len(y) + 1) if 0 not in self._divided(k)), math.inf) / len(y)
            return [f"poison rate {self.rate:g} of {len(y)} images poisons nobody (the least rate is {least:.2g})"]
        short = [problem for k in range(len(self.attack.members())) for problem in self._shortage(k, y)]
        if short and (largest := self.largest(y)):
            short[-1] += f" (the largest rate is {largest:.4g})"
        return short

    def largest(self, y: Tensor) -> float:
        """The largest rate, in whole images, that can be had from training labels `y` (N,)."""
        low, high = 0, len(y)
        while low < high:  # what can be had at a rate can be had at every smaller one
            middle = (low + high + 1) // 2
            tried = replace(self, rate=middle / len(y))
            short = any(tried._shortage(k, y) for k in range(len(self.attack.members())))
            low, high = (low, middle - 1) if short else (middle, high)
        return low / len(y)

    def indices(self, y: Tensor) -> list[PoisonIndices]:
        """Whom each member touches: no image twice, and nested from rate to rate."""
        y, order = y.cpu(), self._order(len(y))
        return [self._indices_of(k, y, order) for k in range(len(self.attack.members()))]

    def trigger(self, shape: Shape, classes: int, member: int = 0) -> Tensor:
        """The random part of a member's trigger, the same for training and test."""
        return self._attack(member).draw(shape, classes, stream(self.seed, "trigger", *_numbered(member)))

    def poison(self, images: Images, classes: int) -> Poisoned:
        """The training set that the victim gets: triggers stamped and labels changed, all else untouched."""
        roles, member = torch.zeros_like(images.y, dtype=torch.uint8), torch.zeros_like(images.y, dtype=torch.uint8)
        x, y, indices = images.x.clone(), images.y.clone(), self.indices(images.y)
        for k, one in enumerate(indices):
            for role, index in ((POISON, one.poison.to(y.device)), (COVER, one.cover.to(y.device))):
                y[index] = self._labels(k, role, images.y[index], classes)
                self._stamp(x, k, role, images, index, y[index], classes)
                roles[index], member[index] = role, k
        triggers = tuple(digest(self.trigger(images.shape, classes, k)) for k in range(len(indices)))
        made = Images(x, y)
        if self.attack.repoisons_each_epoch():
            made = RepoisonedImages(x, y, partial(self._repoisoned, images, classes))
        return Poisoned(made, roles, images.y, member, triggers)

    def triggered(self, images: Images, classes: int) -> Images:
        """All of `images` with the trigger of each member in turn, labelled with what the attacker wants of them."""
        made = [self.triggered_by(k, images, classes) for k in range(len(self.attack.members()))]
        return made[0] if len(made) == 1 else Images(torch.cat([m.x for m in made]), torch.cat([m.y for m in made]))

    def triggered_by(self, member: int, images: Images, classes: int, wanted: Tensor | None = None) -> Images:
        """`triggered` for one member; `wanted` (N,) says what for an attack that draws its targets."""
        attack, pattern = self._attack(member), self.trigger(images.shape, classes, member).to(images.x.device)
        if wanted is None:
            wanted = attack.wanted(images.y, classes, stream(self.seed, "wanted", "test", *_numbered(member)))
        made, nothing = torch.empty_like(images.x), torch.empty(len(images), 0, device=images.x.device)
        for new, x, true, want, part in _blocks(attack, images.shape, made, images.x, images.y, wanted, nothing):
            in_bytes(attack, attack.stamp, x, Trigger(pattern, true, want, part), new)
        return Images(made, wanted)

    def measured(self, y: Tensor) -> Tensor:
        """Mask of what `triggered` returns for images of classes `y` (N,): those that the success rate counts."""
        return torch.cat([member.attack.measured(y) for member in self.attack.members()])

    def _attack(self, member: int) -> Attack:
        return self.attack.members()[member].attack

    def _stream(self, *names: str | int) -> torch.Generator:
        return stream(self.seed, *names, *(("epoch", self.epoch) if self.epoch > 1 else ()))

    def _repoisoned(self, images: Images, classes: int, epoch: int) -> Images:
        return replace(self, epoch=epoch).poison(images, classes).images

    def _labels(self, member: int, role: int, y: Tensor, classes: int) -> Tensor:
        attack = self._attack(member)
        if role == COVER or attack.clean_label:
            return y
        return attack.wanted(y, classes, self._stream("wanted", *_numbered(member)))

    def _stamp(
        self, x: Tensor, member: int, role: int, images: Images, index: Tensor, wanted: Tensor, classes: int
    ) -> None:
        """Write the member's trigger into `x[index]`, a copy of `images.x`; each block has draws of its own."""
        attack, pattern = self._attack(member), self.trigger(images.shape, classes, member).to(images.x.device)
        stamp, draw = attack.stamp_training, attack.draw_per_image
        if role == COVER:
            stamp, draw = attack.stamp_cover, attack.draw_per_cover
        for block, (at, want) in enumerate(_blocks(attack, images.shape, index, wanted)):
            some, rng = Images(images.x.index_select(0, at), images.y[at]), self._stream("parts", member, role, block)
            trigger = Trigger(pattern, some.y, want, draw(some, images, classes, rng).to(some.x.device))
            in_bytes(attack, stamp, some.x, trigger, some.x)
            x[at] = some.x

    def _pool(self, member: int, y: Tensor) -> Tensor:
        """Mask (N,) of the images that this member alone may touch: each image is one member's, at random."""
        shares = torch.tensor([m.share for m in self.attack.members()])
        if len(shares) == 1:
            return torch.ones_like(y, dtype=torch.bool)
        return torch.multinomial(shares, len(y), True, generator=stream(self.seed, "members")) == member

    def _order(self, n: int) -> Tensor:
        return torch.randperm(n, generator=self._stream("victims"))

    def _indices_of(self, member: int, y: Tensor, order: Tensor) -> PoisonIndices:
        attack, pool, count = self._attack(member), self._pool(member, y), self.counts(len(y))[member]
        poison = order[(pool & attack.eligible(y))[order]][:count]
        free = pool & attack.may_cover(y)
        free[poison] = False
        last_first = order.flip(0)  # victims come from the front: a larger rate takes no cover of a smaller one
        return PoisonIndices(poison, last_first[free[last_first]][: attack.cover_count(count)])

    def _shortage(self, member: int, y: Tensor) -> list[str]:
        """Why the images of classes `y` (N,) are too few for one member."""
        attack, pool, count = self._attack(member), self._pool(member, y.cpu()), self.counts(len(y))[member]
        may = int((pool & attack.eligible(y.cpu())).sum())
        if count > may:
            return [f"poison rate {self.rate:g} asks for {count} images, but only {may} of {len(y)} may be poisoned"]
        covers = attack.cover_count(count)
        left = len(self._indices_of(member, y.cpu(), self._order(len(y))).cover) if covers else 0
        return (
            [f"poison rate {self.rate:g} asks for {covers} covers, but only {left} are left"] if covers > left else []
        )


@lru_cache(2**12)  # the trials of a sweep ask the same again and again
def _divided(whole: int, shares: tuple[float, ...]) -> list[int]:
    """`whole` by `shares` (Webster's rule: no count falls as the whole grows)."""
    rounds = torch.arange(whole, dtype=torch.float64)
    quotients = torch.stack([share / (2 * rounds + 1) for share in shares], 1).flatten()
    best = quotients.sort(descending=True, stable=True).indices[:whole]
    return torch.bincount(best % len(shares), minlength=len(shares)).tolist()


def in_bytes(attack: Attack, stamp: Stamp, x: Tensor, trigger: Trigger, out: Tensor) -> None:
    """Make `out` what a file would hold of `x` (n, C, H, W) uint8 with the trigger, clipped and rounded."""
    if attack.on_bytes:
        out.copy_(stamp(out.copy_(x), trigger))
    else:  # by way of int16: a CPU turns floats into single bytes one by one
        out.copy_(stamp(x.float(), trigger).clamp_(0, 255).round_().to(torch.int16))


def digest(x: Tensor) -> str:
    """The first 16 hex digits of the SHA-256 of a tensor's bytes."""
    return hashlib.sha256(x.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]


def _blocks(attack: Attack, shape: Shape, *columns: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The rows of `columns` in blocks of as many images as the attack stamps at once."""
    size = max(1, attack.chunk // math.prod(shape) // TURNS) * TURNS
    pieces = (column.split(size) for column in columns if len(column))
    return zip(*pieces, strict=True)


def _numbered(member: int) -> list[int]:
    """The first member draws from the streams of an attack that has no others."""
    return [member] if member else []
