"""PoisonSpec: attack, rate and seed, from which a poisoned training set and triggered test images are made."""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial

import torch
from torch import Tensor

from raybd.attacks.base import Attack, Shape, Trigger
from raybd.attacks.stamping import KeptPart, Part, RulePart, blocks, draws_per_image, in_bytes, stamped_when_read
from raybd.pixels import as_pixels, is_streamed, stands_for
from raybd.seeds import stream
from raybd.types import COVER, POISON, Images, Poisoned


@dataclass(frozen=True)
class PoisonIndices:
    """The training images that one member of an attack poisons, and those that it uses as covers."""

    poison: Tensor  # indices; those of a smaller rate come first
    cover: Tensor  # likewise


@dataclass(frozen=True)
class Touched:
    """The training images `index` (n,) that a member poisons, or uses as covers."""

    member: int
    role: int  # POISON or COVER
    index: Tensor


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
    # what each member draws once: None where it needs no training images, and follows from the above alone
    patterns: tuple[Tensor, ...] | None = field(default=None, compare=False, repr=False)

    def on(self, train: Images, classes: int) -> "PoisonSpec":
        """This spec with the triggers that its attack makes from the clean training images `train`."""
        if self.patterns is not None or not self._needs_training_images():
            return self
        draws = (
            member.attack.draw_from(train, classes, self._trigger_stream(k))
            for k, member in enumerate(self.attack.members())
        )
        return replace(self, patterns=tuple(draws))

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

    def indices(self, images: Images) -> list[PoisonIndices]:
        """Whom each member touches: no image twice, and nested from rate to rate."""
        y, order = images.y.cpu(), self._order(len(images))
        victims = [self._victims(k, images, y, order) for k in range(len(self.attack.members()))]
        return [PoisonIndices(some, self._covers(k, y, order, some)) for k, some in enumerate(victims)]

    def trigger(self, shape: Shape, classes: int, member: int = 0) -> Tensor:
        """The random part of a member's trigger, the same for training and test.

        Raises:
            ValueError: it is made from training images, and `on` was not told which.
        """
        if self.patterns is not None:
            return self.patterns[member]
        if self._needs_training_images():
            raise ValueError("this trigger is made from the training images: PoisonSpec(...).on(train, classes)")
        return self._attack(member).draw(shape, classes, self._trigger_stream(member))

    def poison(self, images: Images, classes: int) -> Poisoned:
        """The training set that the victim gets: triggers stamped and labels changed, all else untouched."""
        if self.patterns is None and self._needs_training_images():
            return self.on(images, classes).poison(images, classes)
        roles, member = torch.zeros_like(images.y, dtype=torch.uint8), torch.zeros_like(images.y, dtype=torch.uint8)
        y, touched = images.y.clone(), list[Touched]()
        for k, one in enumerate(self.indices(images)):
            for role, index in ((POISON, one.poison.to(y.device)), (COVER, one.cover.to(y.device))):
                y[index] = self._labels(k, role, images.y[index], classes)
                roles[index], member[index] = role, k
                touched.append(Touched(k, role, index))
        x = self._stamped(images, y, touched, classes)
        members = range(len(self.attack.members()))
        triggers = tuple(digest(self.trigger(images.shape, classes, k)) for k in members)
        made = Images(x, y)
        if self.attack.repoisons_each_epoch():
            made = RepoisonedImages(x, y, partial(self._repoisoned, images, classes))
        return Poisoned(made, roles, images.y, member, triggers)

    def triggered(self, images: Images, classes: int) -> Images:
        """All of `images` with the trigger of each member in turn, labelled with what the attacker wants of them."""
        if is_streamed(images.x):
            return self._streamed_triggered(images, classes)
        made = [self.triggered_by(k, images, classes) for k in range(len(self.attack.members()))]
        return made[0] if len(made) == 1 else Images(torch.cat([m.x for m in made]), torch.cat([m.y for m in made]))

    def triggered_by(self, member: int, images: Images, classes: int, wanted: Tensor | None = None) -> Images:
        """`triggered` for one member; `wanted` (N,) says what for an attack that draws its targets."""
        attack, pattern = self._attack(member), self.trigger(images.shape, classes, member).to(images.x.device)
        if wanted is None:
            wanted = self._wanted(member, images.y, classes)
        made, nothing = torch.empty_like(images.x), torch.empty(len(images), 0, device=images.x.device)
        for new, x, true, want, part in blocks(attack, images.shape, made, images.x, images.y, wanted, nothing):
            in_bytes(attack, attack.stamp, x, Trigger(pattern, true, want, part), new)
        return Images(made, wanted)

    def measured(self, y: Tensor) -> Tensor:
        """Mask of what `triggered` returns for images of classes `y` (N,): those that the success rate counts."""
        return torch.cat([member.attack.measured(y) for member in self.attack.members()])

    def _attack(self, member: int) -> Attack:
        return self.attack.members()[member].attack

    def _needs_training_images(self) -> bool:
        return any(type(member.attack).draw_from is not Attack.draw_from for member in self.attack.members())

    def _trigger_stream(self, member: int) -> torch.Generator:
        return stream(self.seed, "trigger", *_numbered(member))

    def _stream(self, *names: str | int) -> torch.Generator:
        return stream(self.seed, *names, *(("epoch", self.epoch) if self.epoch > 1 else ()))

    def _repoisoned(self, images: Images, classes: int, epoch: int) -> Images:
        return replace(self, epoch=epoch).poison(images, classes).images

    def _labels(self, member: int, role: int, y: Tensor, classes: int) -> Tensor:
        attack = self._attack(member)
        if role == COVER or attack.clean_label:
            return y
        return attack.wanted(y, classes, self._stream("wanted", *_numbered(member)))

    def _wanted(self, member: int, y: Tensor, classes: int) -> Tensor:
        return self._attack(member).wanted(y, classes, stream(self.seed, "wanted", "test", *_numbered(member)))

    def _stamped(self, images: Images, y: Tensor, touched: list[Touched], classes: int) -> Tensor:
        """The pixels of `images`, relabelled `y`, with the triggers of training: a copy, or stamped when read."""
        if is_streamed(images.x):
            parts = [self._part(images, y, one, classes) for one in touched if len(one.index)]
            return stands_for(stamped_when_read(as_pixels(images.x), parts))
        x = images.x.clone()
        for one in touched:
            for at, made in self._blocks_of(images, y, one, classes):
                x[at] = made
        return x

    def _blocks_of(self, images: Images, y: Tensor, one: Touched, classes: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The images `one.index` with the trigger, in blocks with their indices; each block has draws of its own."""
        attack, pattern = self._attack(one.member), self.trigger(images.shape, classes, one.member).to(images.x.device)
        stamp, draw = attack.stamp_training, attack.draw_per_image
        if one.role == COVER:
            stamp, draw = attack.stamp_cover, attack.draw_per_cover
        for block, (at, want) in enumerate(blocks(attack, images.shape, one.index, y[one.index])):
            some, rng = images.take(at), self._stream("parts", one.member, one.role, block)
            trigger = Trigger(pattern, some.y, want, draw(some, images, classes, rng).to(some.x.device))
            in_bytes(attack, stamp, some.x, trigger, some.x)
            yield at, some.x

    def _part(self, images: Images, y: Tensor, one: Touched, classes: int) -> Part:
        """How `one.index` gets its trigger when it is read: by rule, or, drawn image by image, from a file."""
        attack = self._attack(one.member)
        if draws_per_image(attack, one.role):
            return KeptPart.of(one.index, images, self._blocks_of(images, y, one, classes))
        pattern = self.trigger(images.shape, classes, one.member)
        stamp = attack.stamp_cover if one.role == COVER else attack.stamp_training
        return RulePart.of(one.index, attack, stamp, Trigger(pattern, images.y, y, torch.empty(0)))

    def _streamed_triggered(self, images: Images, classes: int) -> Images:
        members, n, base = len(self.attack.members()), len(images), as_pixels(images.x)
        y = torch.cat([self._wanted(k, images.y, classes) for k in range(members)])
        true, parts = images.y.repeat(members), list[Part]()
        for k in range(members):
            trigger = Trigger(self.trigger(images.shape, classes, k), true, y, torch.empty(0))
            attack = self._attack(k)
            parts.append(RulePart.of(torch.arange(k * n, (k + 1) * n), attack, attack.stamp, trigger))
        repeated = base.subset(torch.arange(n).repeat(members))
        return Images(stands_for(stamped_when_read(repeated, parts)), y)

    def _pool(self, member: int, y: Tensor) -> Tensor:
        """Mask (N,) of the images that this member alone may touch: each image is one member's, at random."""
        shares = torch.tensor([m.share for m in self.attack.members()])
        if len(shares) == 1:
            return torch.ones_like(y, dtype=torch.bool)
        return torch.multinomial(shares, len(y), True, generator=stream(self.seed, "members")) == member

    def _order(self, n: int) -> Tensor:
        return torch.randperm(n, generator=self._stream("victims"))

    def _candidates(self, member: int, y: Tensor, order: Tensor) -> Tensor:
        return order[(self._pool(member, y) & self._attack(member).eligible(y))[order]]

    def _victims(self, member: int, images: Images, y: Tensor, order: Tensor) -> Tensor:
        candidates, count = self._candidates(member, y, order), self.counts(len(y))[member]
        rng = self._stream("placement", *_numbered(member))
        return self.attack.victims_in_order(images, candidates, rng)[:count] if count else candidates[:0]

    def _covers(self, member: int, y: Tensor, order: Tensor, victims: Tensor) -> Tensor:
        attack = self._attack(member)
        free = self._pool(member, y) & attack.may_cover(y)
        free[victims] = False
        last_first = order.flip(0)  # victims come from the front: a larger rate takes no cover of a smaller one
        return last_first[free[last_first]][: attack.cover_count(self.counts(len(y))[member])]

    def _shortage(self, member: int, y: Tensor) -> list[str]:
        """Why the images of classes `y` (N,) are too few for one member."""
        y, order, count = y.cpu(), self._order(len(y)), self.counts(len(y))[member]
        candidates = self._candidates(member, y, order)
        if count > (may := len(candidates)):
            return [f"poison rate {self.rate:g} asks for {count} images, but only {may} of {len(y)} may be poisoned"]
        covers = self._attack(member).cover_count(count)
        left = len(self._covers(member, y, order, candidates[:count])) if covers else 0
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


def digest(x: Tensor) -> str:
    """The first 16 hex digits of the SHA-256 of a tensor's bytes."""
    return hashlib.sha256(x.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]


def _numbered(member: int) -> list[int]:
    """The first member draws from the streams of an attack that has no others."""
    return [member] if member else []
