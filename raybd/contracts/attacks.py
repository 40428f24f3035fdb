"""What every attack promises, whoever wrote it: `check_attack(MyAttack())` in a test of your own."""

import contextlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from unittest import mock

import torch
from torch import Tensor

from raybd.attacks import ATTACKS, Attack, describe, parse
from raybd.attacks.base import Shape
from raybd.attacks.poisoning import PoisonSpec
from raybd.attacks.verification import verify_poisoning
from raybd.contracts.promises import Check, made_images, promise
from raybd.plugins import build, spec
from raybd.types import COVER, POISON, Images, Poisoned

SHAPES: tuple[Shape, ...] = ((1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64))
CLASSES, IMAGES = 10, 80
LESS, MORE = 0.05, 0.1  # rates: 4 and 8 of the 80 images


@dataclass(frozen=True)
class Case:
    """One attack on one made-up data set, poisoned at two rates."""

    attack: Attack
    images: Images
    seed: int = 3

    @cached_property
    def recipe(self) -> PoisonSpec:
        """At the larger rate."""
        return PoisonSpec(self.attack, MORE, self.seed).on(self.images, CLASSES)

    @cached_property
    def more(self) -> Poisoned:
        """The set at the larger rate."""
        return self.recipe.poison(self.images, CLASSES)

    @cached_property
    def less(self) -> Poisoned:
        """The set at half of it."""
        return replace(self.recipe, rate=LESS).poison(self.images, CLASSES)


def check_attack(attack: Attack, shapes: tuple[Shape, ...] = SHAPES) -> None:
    """Everything that a sweep relies on, on images of every one of `shapes`.

    Raises:
        BrokenPromiseError: the attack breaks a promise.
    """
    check_settings(attack)
    for shape in shapes:
        case = Case(attack, made_images(IMAGES, shape, CLASSES))
        check_usable(case)
        for check in CHECKS.values():
            check(case)


def check_settings(attack: Attack) -> None:
    """Settings go through JSON, and where the attack is in the table through a command line, and come back equal."""
    table = {"it": type(attack)}
    built = build("attack", table, json.loads(json.dumps(spec(table, attack))))
    promise(built == attack, f"{attack} comes back from its record as {built}")
    if type(attack) in ATTACKS.values():
        promise(parse(describe(attack)) == attack, f"{describe(attack)} is read as another attack")


def check_usable(case: Case) -> None:
    """It can be used on such images."""
    problems = case.attack.check(case.images.shape, CLASSES) or case.recipe.check(case.images.y)
    promise(not problems, "; ".join(problems))


def check_exact(case: Case) -> None:
    """As many victims as asked for, from the classes meant; all other images bit for bit; labels by the rule."""
    clean, dirty, attack = case.images, case.more.images, case.attack
    poison, others = case.more.roles == POISON, case.more.roles == 0
    promise(int(poison.sum()) == 8, f"{int(poison.sum())} of 8 images are poisoned")
    promise(int((case.less.roles == POISON).sum()) == 4, "at half the rate other than 4 of 4 images are poisoned")
    promise(dirty.x.dtype == torch.uint8, f"images are {dirty.x.dtype}, not bytes")
    promise(torch.equal(dirty.x[others], clean.x[others]), "other images have changed")
    promise(torch.equal(dirty.y[~poison], clean.y[~poison]), "labels of other images have changed")
    promise(torch.equal(case.more.true, clean.y), "the true labels are not kept")
    unchanged = int((~(dirty.x[poison] != clean.x[poison]).flatten(1).any(1)).sum())
    promise(not unchanged, f"{unchanged} of 8 poisoned images are what they were, after rounding to bytes")
    for k, member in enumerate(attack.members()):
        mine = poison & (case.more.member == k)
        wanted = wanted_labels(member.attack, clean.y[mine], dirty.y[mine])
        promise(dirty.y[mine].tolist() == wanted, f"poison is labelled {dirty.y[mine].tolist()}, not {wanted}")


def wanted_labels(attack: Attack, true: Tensor, given: Tensor) -> list[int]:
    """What poison of classes `true` must be called, said once more; a free choice must only not be the truth."""
    if attack.many_targets:
        promise(bool((given != true).all()), "poison has its true label")
        promise(set(given.tolist()) <= set(range(CLASSES)), "poison has a label that is no class")
        return given.tolist()
    if attack.clean_label:
        promise(bool((true == attack.target).all()), "poison is of another class than the target")
        return true.tolist()
    if attack.labels == "all_to_all":
        return [(y + 1) % CLASSES for y in true.tolist()]
    promise(bool((true != attack.target).all()), "poison is of the target class")
    return [attack.target] * len(true)


def check_covers(case: Case) -> None:
    """Covers are as many as the attack says, counted apart from the poison, changed, and keep their label."""
    for poisoned, asked in ((case.less, 4), (case.more, 8)):
        shares = [m.attack.cover_count(int(c)) for m, c in zip(case.attack.members(), counts(poisoned), strict=True)]
        cover = poisoned.roles == COVER
        promise(int(cover.sum()) == sum(shares), f"{int(cover.sum())} covers, not {sum(shares)}")
        promise(sum(counts(poisoned)) == asked, f"{sum(counts(poisoned))} poisoned images beside covers, not {asked}")
        promise(torch.equal(poisoned.images.y[cover], case.images.y[cover]), "a cover has another label")
        changed = (poisoned.images.x[cover] != case.images.x[cover]).flatten(1).any(1)
        promise(bool(changed.double().mean().nan_to_num(1) > 0.5), "half of the covers or more are what they were")


def counts(poisoned: Poisoned) -> list[int]:
    """How many images each member has poisoned."""
    members = len(poisoned.triggers)
    return torch.bincount(poisoned.member[poisoned.roles == POISON].long(), minlength=members).tolist()


def check_nested(case: Case) -> None:
    """Who is poisoned at a rate is so at a larger one, with the same label and the same pixels; so are covers."""
    small_blocks = Case(case.attack, case.images)
    with blocks_of(3, case):
        pairs = [(case.less, case.more), (small_blocks.less, small_blocks.more)]
    for less, more in pairs:
        for role in (POISON, COVER):
            index = (less.roles == role).nonzero().squeeze(1)
            promise(bool((more.roles[index] == role).all()), "an image is poisoned or a cover at the lower rate alone")
            promise(torch.equal(more.member[index], less.member[index]), "an image changes its member with the rate")
            promise(torch.equal(more.images.y[index], less.images.y[index]), "an image changes its label with the rate")
            same = torch.equal(more.images.x[index], less.images.x[index])
            promise(same, "pixels depend on the rate, or on the images that are stamped together")


def check_seeds(case: Case) -> None:
    """The same seed gives the same bits, whatever was drawn meanwhile; another one poisons other images."""
    torch.rand(1)
    again, other = case.recipe.poison(case.images, CLASSES), Case(case.attack, case.images, case.seed + 1).less
    promise(torch.equal(again.images.x, case.more.images.x), "the same seed gives other pixels: draw from `rng`")
    promise(torch.equal(again.images.y, case.more.images.y), "the same seed gives other labels: draw from `rng`")
    promise(torch.equal(again.roles, case.more.roles), "the same seed poisons other images")
    promise(again.triggers == case.more.triggers, "the same seed draws another trigger")
    promise(not torch.equal(other.roles == POISON, case.less.roles == POISON), "another seed poisons the same images")


def check_gate(case: Case) -> None:
    """The gate lets it pass, and its manifest says what is there and fits into JSON."""
    manifest = verify_poisoning(case.recipe, case.images, case.more, CLASSES)
    covers = int((case.more.roles == COVER).sum())
    found, wanted = tuple(manifest[name] for name in ("poison", "cover", "clean")), (8, covers, IMAGES - 8 - covers)
    promise(found == wanted, f"the manifest counts {found}, not {wanted}")
    promise(json.loads(json.dumps(manifest)) == manifest, "the manifest does not fit into JSON")


def check_test_images(case: Case) -> None:
    """Test images come as bytes, one for each and each member; how many go at once and in what layout is all one."""
    few = case.images.take(torch.arange(10))
    before = few.x.clone()
    whole = case.recipe.triggered(few, CLASSES)
    promise(whole.x.dtype == torch.uint8, f"test images are {whole.x.dtype}, not bytes")
    wanted = (10 * len(case.attack.members()), *few.shape)
    promise(whole.x.shape == wanted, f"10 test images become {tuple(whole.x.shape)}, not {wanted}")
    promise(torch.equal(few.x, before), "the test images themselves have changed: stamp a copy")
    promise(case.recipe.measured(few.y).shape == whole.y.shape, "success is measured on another number of images")
    with blocks_of(3, case):
        pieces = case.recipe.triggered(few, CLASSES)
    promise(torch.equal(pieces.x, whole.x), "pixels depend on the images that are stamped together")
    promise(torch.equal(pieces.y, whole.y), "labels depend on the images that are stamped together")
    as_files_hold_them = Images(few.x.contiguous(memory_format=torch.channels_last), few.y)
    same = torch.equal(case.recipe.triggered(as_files_hold_them, CLASSES).x, whole.x)
    promise(same, "pixels depend on how the images lie in memory")


def check_labels(case: Case) -> None:
    """A dirty-label attack works with all_to_all too, unless it says why it cannot."""
    attack = replace(case.attack, labels="all_to_all")
    if refused := attack.check(case.images.shape, CLASSES):
        promise("labels must be all_to_one" in "\n".join(refused), f"all_to_all is refused for no reason: {refused}")
    else:
        promise(not attack.clean_label, "a clean-label attack takes all_to_all")
        moved = Case(attack, case.images)
        check_exact(moved)
        verify_poisoning(moved.recipe, case.images, moved.more, CLASSES)
        up = ((case.images.y + 1) % CLASSES).repeat(len(attack.members()))
        promise(torch.equal(moved.recipe.triggered(case.images, CLASSES).y, up), "all_to_all wants other classes")
        promise(bool(moved.recipe.measured(case.images.y).all()), "all_to_all leaves test images out")


@contextlib.contextmanager
def blocks_of(images: int, case: Case) -> Iterator[None]:
    """Stamp so many images at once, in place of as many as fit the cache."""
    with contextlib.ExitStack() as stack:
        for cls in {type(member.attack) for member in case.attack.members()}:
            stack.enter_context(mock.patch.object(cls, "chunk", images * math.prod(case.images.shape)))
        yield


CHECKS: dict[str, Check[Case]] = {
    "exact": check_exact,
    "covers": check_covers,
    "nested": check_nested,
    "seeds": check_seeds,
    "verified": check_gate,
    "test images": check_test_images,
    "all_to_all": check_labels,
}
