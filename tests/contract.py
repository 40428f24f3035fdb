"""What every attack promises, whoever wrote it: `check_contract(MyAttack())` in a test of your own."""

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
from raybd.plugins import build, spec
from raybd.types import COVER, POISON, Images, Poisoned
from tests.conftest import made_images

SHAPES: tuple[Shape, ...] = ((1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64))
CLASSES, IMAGES = 10, 80
LESS, MORE = 0.05, 0.1  # rates: 4 and 8 of the 80 images


@dataclass(frozen=True)
class Case:
    """One attack on one made-up data set, poisoned at two rates."""

    attack: Attack
    images: Images
    seed: int = 3

    @property
    def recipe(self) -> PoisonSpec:
        return PoisonSpec(self.attack, MORE, self.seed)

    @cached_property
    def more(self) -> Poisoned:
        return self.recipe.poison(self.images, CLASSES)

    @cached_property
    def less(self) -> Poisoned:
        return replace(self.recipe, rate=LESS).poison(self.images, CLASSES)


def check_contract(attack: Attack, shapes: tuple[Shape, ...] = SHAPES) -> None:
    """Everything that a sweep relies on, on images of every one of `shapes`.

    Raises:
        AssertionError: the attack breaks a promise.
    """
    check_settings(attack)
    for shape in shapes:
        case = Case(attack, made_images(IMAGES, shape, CLASSES))
        assert attack.check(shape, CLASSES) == []
        assert case.recipe.check(case.images.y) == []
        for check in (check_exact, check_covers, check_nested, check_seeds, check_gate, check_test_images):
            check(case)
        check_labels(case)


def check_settings(attack: Attack) -> None:
    """Settings go through JSON, and where the attack is in the table through a command line, and come back equal."""
    table = {"it": type(attack)}
    assert build("attack", table, json.loads(json.dumps(spec(table, attack)))) == attack
    if type(attack) in ATTACKS.values():
        assert parse(describe(attack)) == attack


def check_exact(case: Case) -> None:
    """As many victims as asked for, from the classes meant; all other images bit for bit; labels by the rule."""
    clean, dirty, attack = case.images, case.more.images, case.attack
    poison, others = case.more.roles == POISON, case.more.roles == 0
    assert int(poison.sum()) == 8
    assert int((case.less.roles == POISON).sum()) == 4
    assert dirty.x.dtype == torch.uint8
    assert torch.equal(dirty.x[others], clean.x[others])
    assert torch.equal(dirty.y[~poison], clean.y[~poison])
    assert torch.equal(case.more.true, clean.y)
    assert (dirty.x[poison] != clean.x[poison]).flatten(1).any(1).all()
    for k, member in enumerate(attack.members()):
        mine = poison & (case.more.member == k)
        assert dirty.y[mine].tolist() == wanted_labels(member.attack, clean.y[mine], dirty.y[mine])


def wanted_labels(attack: Attack, true: Tensor, given: Tensor) -> list[int]:
    """What poison of classes `true` must be called, said once more; a free choice must only not be the truth."""
    if attack.many_targets:
        assert (given != true).all()
        assert set(given.tolist()) <= set(range(CLASSES))
        return given.tolist()
    if attack.clean_label:
        assert (true == attack.target).all()
        return true.tolist()
    if attack.labels == "all_to_all":
        return [(y + 1) % CLASSES for y in true.tolist()]
    assert (true != attack.target).all()
    return [attack.target] * len(true)


def check_covers(case: Case) -> None:
    """Covers are as many as the attack says, counted apart from the poison, changed, and keep their label."""
    for poisoned, asked in ((case.less, 4), (case.more, 8)):
        shares = [m.attack.cover_count(int(c)) for m, c in zip(case.attack.members(), counts(poisoned), strict=True)]
        cover = poisoned.roles == COVER
        assert int(cover.sum()) == sum(shares)
        assert sum(counts(poisoned)) == asked
        assert torch.equal(poisoned.images.y[cover], case.images.y[cover])
        changed = (poisoned.images.x[cover] != case.images.x[cover]).flatten(1).any(1)
        assert changed.double().mean().nan_to_num(1) > 0.5


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
            assert (more.roles[index] == role).all()
            assert torch.equal(more.member[index], less.member[index])
            assert torch.equal(more.images.y[index], less.images.y[index])
            assert torch.equal(more.images.x[index], less.images.x[index])


def check_seeds(case: Case) -> None:
    """The same seed gives the same bits, whatever was drawn meanwhile; another one poisons other images."""
    torch.rand(1)
    again, other = case.recipe.poison(case.images, CLASSES), Case(case.attack, case.images, case.seed + 1).less
    assert torch.equal(again.images.x, case.more.images.x)
    assert torch.equal(again.images.y, case.more.images.y)
    assert torch.equal(again.roles, case.more.roles)
    assert again.triggers == case.more.triggers
    assert not torch.equal(other.roles == POISON, case.less.roles == POISON)


def check_gate(case: Case) -> None:
    """The gate lets it pass, and its manifest says what is there and fits into JSON."""
    manifest = verify_poisoning(case.recipe, case.images, case.more, CLASSES)
    covers = int((case.more.roles == COVER).sum())
    assert (manifest["poison"], manifest["cover"], manifest["clean"]) == (8, covers, IMAGES - 8 - covers)
    assert json.loads(json.dumps(manifest)) == manifest


def check_test_images(case: Case) -> None:
    """Test images come as bytes, one for each and each member; how many go at once and in what layout is all one."""
    few = case.images.take(torch.arange(10))
    before = few.x.clone()
    whole = case.recipe.triggered(few, CLASSES)
    assert whole.x.dtype == torch.uint8
    assert whole.x.shape == (10 * len(case.attack.members()), *few.shape)
    assert torch.equal(few.x, before)
    assert case.recipe.measured(few.y).shape == whole.y.shape
    with blocks_of(3, case):
        pieces = case.recipe.triggered(few, CLASSES)
    assert torch.equal(pieces.x, whole.x)
    assert torch.equal(pieces.y, whole.y)
    as_files_hold_them = Images(few.x.contiguous(memory_format=torch.channels_last), few.y)
    assert torch.equal(case.recipe.triggered(as_files_hold_them, CLASSES).x, whole.x)


def check_labels(case: Case) -> None:
    """A dirty-label attack works with all_to_all too, unless it says why it cannot."""
    attack = replace(case.attack, labels="all_to_all")
    if refused := attack.check(case.images.shape, CLASSES):
        assert "labels must be all_to_one" in "\n".join(refused)
    else:
        assert not attack.clean_label
        moved = Case(attack, case.images)
        check_exact(moved)
        verify_poisoning(moved.recipe, case.images, moved.more, CLASSES)
        up = ((case.images.y + 1) % CLASSES).repeat(len(attack.members()))
        assert torch.equal(moved.recipe.triggered(case.images, CLASSES).y, up)
        assert moved.recipe.measured(case.images.y).all()


@contextlib.contextmanager
def blocks_of(images: int, case: Case) -> Iterator[None]:
    """Stamp so many images at once, in place of as many as fit the cache."""
    with contextlib.ExitStack() as stack:
        for cls in {type(member.attack) for member in case.attack.members()}:
            stack.enter_context(mock.patch.object(cls, "chunk", images * math.prod(case.images.shape)))
        yield
