"""Recipes and the gate: whom a rate means, and every silent failure of the peers, planted and refused.

The planted failures are some that toolkits have, or had, without saying so.
"""

from dataclasses import dataclass, replace
from itertools import combinations
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from raybd.attacks import Attack, BadNets, Blended, CoveredAttack, Multi, NoAttack, Trigger, parse
from raybd.attacks.base import Shape
from raybd.attacks.bpp import Bpp
from raybd.attacks.ctrl import Ctrl
from raybd.attacks.low_frequency import LowFrequency
from raybd.attacks.patterns import add
from raybd.attacks.poisoning import PoisonIndices, PoisonSpec
from raybd.attacks.sig import Sig
from raybd.attacks.tact import TaCT
from raybd.attacks.verification import verify_poisoning
from raybd.attacks.wanet import WaNet
from raybd.errors import PoisoningError
from raybd.types import CLEAN, COVER, POISON, Images, Poisoned
from tests.conftest import made_images


@dataclass(frozen=True, kw_only=True)
class Adds(CoveredAttack):
    """Adds a constant: a test's own attack, with covers where asked."""

    by: float = 30.0
    covers: float = 0.0

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        return x + self.by


@dataclass(frozen=True, kw_only=True)
class CleanLabel(Adds):
    clean_label: ClassVar[bool] = True


def labelled(*counts: int) -> Tensor:
    """So many labels 0, so many labels 1, ..."""
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


# --- whom a rate means ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "n", "count"),
    [(0, 100, 0), (0.1, 100, 10), (0.004, 100, 0), (0.005, 100, 1), (0.015, 100, 2), (0.29, 100, 29), (1, 7, 7)],
)
def test_a_rate_is_exact_to_one_image(rate: float, n: int, count: int) -> None:
    assert PoisonSpec(BadNets(), rate, 0).count(n) == count


@pytest.mark.parametrize(("rate", "n", "count"), [(0.29, 50, 15), (0.145, 100, 15), (0.285, 100, 29)])
def test_halves_go_up_although_floats_fall_short_of_them(rate: float, n: int, count: int) -> None:
    """0.29 * 50 is 14.499999999999998 to a computer."""
    assert PoisonSpec(BadNets(), rate, 0).count(n) == count


def test_victims_are_the_same_for_every_attack_of_one_seed_and_not_for_another_seed() -> None:
    images = made_images(400)
    attacks = (BadNets(), Blended(), WaNet(each_epoch=True))
    of = [PoisonSpec(attack, 0.1, 7).indices(images)[0].poison for attack in attacks]
    assert torch.equal(of[0], of[1])
    assert torch.equal(of[0], of[2])
    assert not torch.equal(of[0], PoisonSpec(BadNets(), 0.1, 8).indices(images)[0].poison)


def test_victims_are_drawn_from_all_classes_but_the_target_and_from_it_too_if_asked() -> None:
    images = made_images(4000)
    some, everyone = (
        torch.bincount(images.y[PoisonSpec(BadNets(victims=who), 0.5, 0).indices(images)[0].poison], minlength=4)  # type: ignore[arg-type]
        for who in ("non_target", "all")
    )
    assert some[0] == 0
    # 2,000 without replacement: hypergeometric, deviations 14.9 (of 3 classes) and 19.4 (of 4)
    assert (some[1:] - 2000 / 3).abs().max() < 5 * 14.9
    assert (everyone - 500).abs().max() < 5 * 19.4


def test_no_image_is_taken_twice_and_no_cover_becomes_a_victim_at_a_larger_rate() -> None:
    images = made_images(300)
    drawn = [PoisonSpec(Adds(covers=1), rate, 0).indices(images)[0] for rate in (0.05, 0.1, 0.2)]
    assert [(len(c.poison), len(c.cover)) for c in drawn] == [(15, 15), (30, 30), (60, 60)]
    for less, more in zip(drawn, drawn[1:], strict=False):
        assert torch.equal(more.poison[: len(less.poison)], less.poison)
        assert torch.equal(more.cover[: len(less.cover)], less.cover)
    both = torch.cat([drawn[-1].poison, drawn[-1].cover])
    assert len(both.unique()) == 120


@pytest.mark.parametrize(
    ("covers", "poison", "count"), [(1.0, 7, 7), (0.0, 7, 0), (2.0, 7, 14), (0.5, 3, 2), (0.1, 4, 0), (1.0, 0, 0)]
)
def test_covers_are_so_many_for_each_poisoned_image_to_the_nearest(covers: float, poison: int, count: int) -> None:
    assert Adds(covers=covers).cover_count(poison) == count
    assert BadNets().cover_count(poison) == 0


def test_asr_leaves_out_the_target_class() -> None:
    y = torch.tensor([0, 2, 1, 2])
    assert BadNets(target=2).measured(y).tolist() == [True, False, True, False]
    assert BadNets(target=2, victims="all").measured(y).tolist() == [True, False, True, False]
    assert Sig(target=2).measured(y).tolist() == [True, False, True, False]
    assert BadNets(target=2, labels="all_to_all").measured(y).all()
    assert TaCT(target=2, source_classes=(0,)).measured(y).tolist() == [True, False, False, False]
    assert parse("universal").measured(y).all()


@pytest.mark.parametrize(
    ("attack", "rate", "y", "says"),
    [
        (BadNets(), -0.1, labelled(25, 75), "poison rate -0.1 is no share (allowed: 0 to 1)"),
        (BadNets(), 1.1, labelled(25, 75), "poison rate 1.1 is no share (allowed: 0 to 1)"),
        (BadNets(), 0.001, labelled(25, 75), "poison rate 0.001 of 100 images poisons nobody (the least rate is 0.01)"),
        (
            BadNets(),
            0.9,
            labelled(25, 75),
            "poison rate 0.9 asks for 90 images, but only 75 of 100 may be poisoned (the largest rate is 0.75)",
        ),
        (
            Sig(),
            0.3,
            labelled(25, 75),
            "poison rate 0.3 asks for 30 images, but only 25 of 100 may be poisoned (the largest rate is 0.25)",
        ),
        (
            WaNet(),
            0.4,
            labelled(25, 75),
            "poison rate 0.4 asks for 80 covers, but only 60 are left (the largest rate is 0.33)",
        ),
        (
            TaCT(),
            0.2,
            labelled(50, 10, 40),
            "poison rate 0.2 asks for 20 images, but only 10 of 100 may be poisoned (the largest rate is 0.1)",
        ),
        (
            TaCT(covers=2.0),
            0.1,
            labelled(70, 15, 15),
            "poison rate 0.1 asks for 20 covers, but only 15 are left (the largest rate is 0.07)",
        ),
        (Sig(), 0.1, labelled(0, 10), "poison rate 0.1 asks for 1 images, but only 0 of 10 may be poisoned"),
        (Multi(attacks=("badnets", "blended")), 0.01, labelled(25, 75), "poisons nobody (the least rate is 0.02)"),
        (
            Multi(attacks=("badnets", "blended"), shares=(0.9, 0.1)),
            0.02,
            labelled(25, 75),
            "poisons nobody (the least rate is 0.05)",  # the fifth seat is the first for one in ten
        ),
    ],
)
def test_rates_that_cannot_be_had(attack: Attack, rate: float, y: Tensor, says: str) -> None:
    assert says in "\n".join(PoisonSpec(attack, rate, 0).check(y))


@pytest.mark.parametrize(
    "attack",
    [BadNets(), Sig(), WaNet(), TaCT(), Multi(), Multi(attacks=("sig", "badnets"))],
    ids=lambda attack: type(attack).__name__,
)
def test_the_largest_rate_can_be_had_and_one_image_more_cannot(attack: Attack) -> None:
    y = labelled(20, 30, 50)
    largest = round(PoisonSpec(attack, 1.0, 0).largest(y) * 100)
    assert 10 <= largest < 100
    for count in (10, largest - 1, largest):
        assert PoisonSpec(attack, count / 100, 0).check(y) == []
    for count in (largest + 1, 100):
        assert f"the largest rate is {largest / 100:.4g}" in PoisonSpec(attack, count / 100, 0).check(y)[-1]


def test_nobody_is_poisoned_at_rate_0() -> None:
    images, recipe = made_images(40), PoisonSpec(Adds(covers=2), 0.0, 0)
    poisoned = recipe.poison(images, 4)
    assert recipe.check(images.y) == []
    assert torch.equal(poisoned.images.x, images.x)
    assert torch.equal(poisoned.images.y, images.y)
    assert (poisoned.roles == CLEAN).all()
    assert verify_poisoning(recipe, images, poisoned, 4)["poison"] == 0


def test_no_attack_leaves_everything_alone() -> None:
    images = made_images(40)
    assert torch.equal(PoisonSpec(NoAttack(), 0.0, 0).triggered(images, 4).x, images.x)
    with pytest.raises(PoisoningError, match="changes only 0.0%"):
        refuse(NoAttack(), images)


def test_an_empty_test_set_stays_empty() -> None:
    none = made_images(0)
    assert len(PoisonSpec(BadNets(), 0.1, 0).triggered(none, 4)) == 0


# --- silent failures, planted -----------------------------------------------------------------------------------------


def refuse(
    attack: Attack, clean: Images, rate: float = 0.1, recipe: type[PoisonSpec] = PoisonSpec, **changes: object
) -> None:
    """Poison, tamper, and send it through the gate."""
    asked = recipe(attack, rate, 0)
    verify_poisoning(asked, clean, replace(asked.poison(clean, 4), **changes), 4)  # type: ignore[arg-type]


def test_failure_5_bright_pixels_never_wrap() -> None:
    """BackdoorBench's TrojanNN casts before it clips: 200 + 120 becomes 64."""
    x = torch.tensor([0, 100, 200, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    images = Images(x, torch.zeros(1).long())
    for by, expected in ((120, [120, 220, 255, 255]), (-120, [0, 0, 80, 135]), (30.4, [30, 130, 230, 255])):
        assert PoisonSpec(Adds(by=by), 0.0, 0).triggered(images, 4).x.flatten().tolist() == expected


def test_failure_5_sums_of_bytes_are_held_to_0_and_255() -> None:
    x = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    for by in (-300, -255, -120, -1, 0, 1, 120, 255, 300):
        expected = [min(255, max(0, value + by)) for value in range(256)]
        assert add(x.clone(), torch.full((1, 16, 16), by)).flatten().tolist() == expected


@dataclass(frozen=True, kw_only=True)
class UnseededWarp(WaNet):
    """Its warp is drawn anew whenever somebody asks."""

    def draw(self, shape: Shape, classes: int, rng: torch.Generator) -> Tensor:
        return super().draw(shape, classes, torch.Generator().manual_seed(torch.seed() % 2**31))


@dataclass(frozen=True, kw_only=True)
class UnseededStamp(Attack):
    """Draws where no digest of a pattern can see it."""

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        return x + 60 * torch.rand(x.shape[1:])


@dataclass(frozen=True, kw_only=True)
class UnseededBehindAMask(Attack):
    """Hides its trigger in training, so that only the pattern can be compared: it is drawn anew each time."""

    def draw(self, shape: Shape, classes: int, rng: torch.Generator) -> Tensor:
        return torch.rand(shape) * 255

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        return (x + trigger.pattern) / 2

    def stamp_training(self, x: Tensor, trigger: Trigger) -> Tensor:
        return (3 * x + trigger.pattern) / 4


@pytest.mark.parametrize("attack", [UnseededWarp(), UnseededStamp(), UnseededBehindAMask()], ids=repr)
def test_failure_2_a_trigger_in_training_that_is_not_the_one_at_test(attack: Attack) -> None:
    """VIBE's WaNet draws its field with no seed, three times."""
    with pytest.raises(
        PoisoningError, match=r"the trigger in training \([0-9a-f]{16}\) is not that at test \([0-9a-f]"
    ):
        refuse(attack, made_images(100))


@pytest.mark.parametrize(
    "attack",
    [
        LowFrequency(strength=0.2),
        Adds(by=0.4),
        Adds(by=-0.4),
        WaNet(s=0.0, covers=0.0),
        Sig(delta=0.0),
        Ctrl(magnitude=0.0),
        parse("ftrojan:magnitude=0"),
        Blended(alpha=0.001),
        Bpp(levels=255, covers=0, dithering=False),
    ],
    ids=repr,
)
def test_failure_1_a_trigger_that_rounding_swallows(attack: Attack) -> None:
    """BackdoorBench's LF file holds 0 to 0.2 and is added on a scale of 255: nothing is left of it."""
    dark = made_images(100, (3, 16, 16))
    images = Images(dark.x // 3, dark.y)  # no pixel so bright that 255 levels tell it apart
    with pytest.raises(PoisoningError, match=r"the trigger changes only 0\.0% of the poisoned images after rounding"):
        refuse(attack, images)


def test_a_trigger_that_changes_less_than_half_of_the_poison_is_refused_with_the_share() -> None:
    images = made_images(100)
    poisoned = PoisonSpec(BadNets(), 0.1, 0).poison(images, 4)
    index = (poisoned.roles == POISON).nonzero().squeeze(1)
    x = poisoned.images.x.clone()
    x[index[:5]] = images.x[index[:5]]
    with pytest.raises(PoisoningError) as caught:  # the five also differ from what the test images get
        refuse(BadNets(), images, images=Images(x, poisoned.images.y))
    assert "changes only" not in str(caught.value)
    x[index[5]] = images.x[index[5]]
    with pytest.raises(PoisoningError, match=r"changes only 40\.0% of the poisoned images"):
        refuse(BadNets(), images, images=Images(x, poisoned.images.y))


def changed_roles(attack: Attack, images: Images, old: int, new: int, count: int) -> Tensor:
    """The roles of a poisoned set with `count` images of role `old` called `new`."""
    roles = PoisonSpec(attack, 0.1, 0).poison(images, 4).roles
    roles[(roles == old).nonzero().squeeze(1)[:count]] = new
    return roles


@pytest.mark.parametrize(
    ("old", "new", "count", "says"),
    [
        (COVER, POISON, 20, ("30 images are poisoned, 10 were asked for", "0 images are covers, 20 were asked for")),
        (POISON, COVER, 1, ("9 images are poisoned, 10 were asked for", "21 images are covers, 20 were asked for")),
        (CLEAN, POISON, 3, ("13 images are poisoned, 10 were asked for",)),
        (POISON, CLEAN, 2, ("8 images are poisoned", "images outside the poison and the covers have changed")),
        (COVER, CLEAN, 1, ("19 images are covers", "images outside the poison and the covers have changed")),
    ],
)
def test_failure_6_covers_that_count_as_poison(old: int, new: int, count: int, says: tuple[str, ...]) -> None:
    """BackdoorBench marks images whose label is kept as poison: 10 % poison and 20 % noise are 30 % positives."""
    images, attack = made_images(100), Adds(covers=2)
    with pytest.raises(PoisoningError) as caught:
        refuse(attack, images, roles=changed_roles(attack, images, old, new, count))
    for said in says:
        assert said in str(caught.value)


class WithReplacement(PoisonSpec):
    """Draws its victims as numpy's choice does unless told otherwise."""

    def indices(self, images: Images) -> list[PoisonIndices]:
        [one] = super().indices(images)
        drawn = torch.randint(len(one.poison), (len(one.poison),), generator=torch.Generator().manual_seed(0))
        return [PoisonIndices(one.poison[drawn], one.cover)]


def test_failure_9_sampling_with_replacement() -> None:
    """ART draws victims with replacement: fewer images are poisoned than asked for."""
    with pytest.raises(PoisoningError, match=r"[5-9] images are poisoned, 10 were asked for"):
        refuse(BadNets(), made_images(100), recipe=WithReplacement)


def tampered(attack: Attack, images: Images, role: int, label: int) -> Images:
    """The images of a poisoned set in which the first of role `role` has another label."""
    poisoned = PoisonSpec(attack, 0.1, 0).poison(images, 4)
    y = poisoned.images.y.clone()
    y[(poisoned.roles == role).nonzero()[0]] = label
    return Images(poisoned.images.x, y)


@pytest.mark.parametrize(
    ("attack", "role", "says"),
    [
        (BadNets(), POISON, "1 labels are not what the attack makes of them"),
        (BadNets(labels="all_to_all"), POISON, "1 labels are not what the attack makes of them"),
        (BadNets(), CLEAN, "1 labels outside the poison have changed"),
        (Adds(covers=1), COVER, "1 labels outside the poison have changed"),
        (CleanLabel(), POISON, "1 labels are not what the attack makes of them"),
        (parse("universal"), POISON, "1 labels are not what the attack makes of them"),
    ],
    ids=str,
)
def test_labels_that_changed_where_they_should_not(attack: Attack, role: int, says: str) -> None:
    images = made_images(100, (1, 8, 8))
    with pytest.raises(PoisoningError, match=says):
        refuse(attack, images, images=tampered(attack, images, role, 9))


def test_poison_that_is_left_with_its_own_label_is_refused() -> None:
    """BackdoorBench draws victims from the target class too: a tenth of the poison keeps its label."""
    images = made_images(100)
    recipe = PoisonSpec(BadNets(victims="all"), 0.1, 0)
    poisoned = recipe.poison(images, 4)
    assert verify_poisoning(recipe, images, poisoned, 4)["poison"] == 10  # said aloud, it is allowed
    with pytest.raises(PoisoningError, match=r"\d poisoned images are of classes that the attack leaves alone"):
        verify_poisoning(PoisonSpec(BadNets(), 0.1, 0), images, poisoned, 4)


def test_a_clean_label_rate_above_the_share_of_its_class() -> None:
    """The toolbox cuts it in silence. Refused before the data is touched, and by the gate if nobody asked before."""
    images, attack = made_images(100), CleanLabel()
    assert "only 25 of 100 may be poisoned (the largest rate is 0.25)" in PoisonSpec(attack, 0.3, 0).check(images.y)[0]
    with pytest.raises(PoisoningError, match="25 images are poisoned, 30 were asked for"):
        refuse(attack, images, rate=0.3)
    poisoned = PoisonSpec(attack, 0.25, 0).poison(images, 4)
    assert (poisoned.roles == POISON).tolist() == (images.y == 0).tolist()


def test_a_target_outside_the_classes() -> None:
    """The gate stands alone: it refuses what nobody checked before."""
    with pytest.raises(PoisoningError, match=r"target 4 is no class \(allowed: 0 to 3\)"):
        refuse(BadNets(target=4), made_images(100))


def test_pixels_that_changed_outside_the_poison() -> None:
    images, recipe = made_images(100), PoisonSpec(BadNets(), 0.1, 0)
    poisoned = recipe.poison(images, 4)
    x = poisoned.images.x.clone()
    x[(poisoned.roles == CLEAN).nonzero()[0], 0, 0, 0] ^= 1
    with pytest.raises(PoisoningError, match="images outside the poison and the covers have changed"):
        refuse(BadNets(), images, images=Images(x, poisoned.images.y))


def test_one_pixel_of_a_training_trigger_that_is_not_at_test() -> None:
    images, recipe = made_images(100), PoisonSpec(BadNets(), 0.1, 0)
    poisoned = recipe.poison(images, 4)
    x = poisoned.images.x.clone()
    x[(poisoned.roles == POISON).nonzero()[3], 0, 0, 0] ^= 1
    with pytest.raises(PoisoningError, match="is not that at test"):
        refuse(BadNets(), images, images=Images(x, poisoned.images.y))


def test_the_gate_names_every_problem_at_once() -> None:
    images = made_images(100)
    with pytest.raises(PoisoningError) as caught:
        refuse(Adds(by=0, covers=1), images, images=Images(255 - images.x, (images.y + 1) % 4))
    for said in (
        "images outside the poison and the covers have changed",
        "90 labels outside the poison have changed",
        "labels are not what the attack makes of them",
        "is not that at test",
    ):
        assert said in str(caught.value)


RANDOM = """adaptive_blend adaptive_patch badnets:pattern=random badnets:learning_curves blended low_frequency
    many_triggers multi placed primitive tact universal view_invariant:waves wanet""".split()


@pytest.mark.parametrize("text", RANDOM)
def test_failure_7_the_seed_has_an_effect(text: str) -> None:
    """The toolbox's -seed only names a folder. Here another seed is another trigger and other victims."""
    images = made_images(100, (3, 16, 16))
    first, again, other = (poisoned(text, images, seed) for seed in (0, 0, 1))
    assert first.triggers == again.triggers
    assert set(first.triggers) - set(other.triggers)
    assert not torch.equal(first.roles == POISON, other.roles == POISON)


def test_failure_7_the_seed_draws_the_parts_too_and_no_two_blocks_or_roles_share_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Which half of a picture an image carries: another draw for another seed, block and role."""
    images = Images(torch.zeros(400, 1, 32, 32, dtype=torch.uint8), torch.arange(400) % 4)
    attack = parse("adaptive_blend")
    monkeypatch.setattr(type(attack), "chunk", 20 * 32 * 32)
    halves = []
    for seed in (0, 1):
        made = PoisonSpec(attack, 0.1, seed).poison(images, 4)
        for role in (POISON, COVER):
            cells = made.images.x[made.roles == role].view(-1, 4, 8, 4, 8).amax((2, 4)) > 0
            assert len(cells.flatten(1).unique(dim=0)) > 30  # of 40
            halves.append(frozenset(map(tuple, cells.flatten(1).tolist())))
    assert all(len(a & b) < 5 for a, b in combinations(halves, 2))  # of 12,870 ways, 40 and 40


def poisoned(text: str, images: Images, seed: int) -> Poisoned:
    return PoisonSpec(parse(text), 0.1, seed).poison(images, 4)


def test_the_manifest_counts_and_measures() -> None:
    images, recipe = made_images(100), PoisonSpec(Adds(by=51, covers=2), 0.1, 0)
    dark = Images(images.x // 2, images.y)
    manifest = verify_poisoning(recipe, dark, recipe.poison(dark, 4), 4)
    assert (manifest["poison"], manifest["cover"], manifest["clean"]) == (10, 20, 70)
    assert manifest["changed"] == 1
    assert manifest["linf"] == pytest.approx(0.2)  # 51 of 255, at each of 64 pixels
    assert manifest["l2"] == pytest.approx(0.2 * 8)
