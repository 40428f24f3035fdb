"""What training images carry where it is not what test images carry, and attacks of many targets or many members."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raybd.attacks import Attack, Multi, parse
from raybd.attacks.adaptive_blend import AdaptiveBlend
from raybd.attacks.poisoning import PoisonSpec
from raybd.attacks.tact import TaCT
from raybd.attacks.verification import verify_poisoning
from raybd.attacks.wanet import WaNet
from raybd.errors import PoisoningError
from raybd.metrics.accuracy import Accuracy
from raybd.types import COVER, POISON, Data, Images, MetricContext, Poisoned
from tests.conftest import made_images

PLACES = [(1, 1), (1, 26), (26, 1), (26, 26)]  # the corners of the four patches, five pixels a side, at 32x32
PIXELS = [(16, 11), (27, 5), (7, 30), (22, 22)]
ALPHAS = (0.5, 0.2, 0.5, 0.3)


def flat_images(n: int, grey: int, shape: tuple[int, int, int] = (3, 32, 32)) -> Images:
    return Images(torch.full((n, *shape), grey, dtype=torch.uint8), torch.arange(n) % 4)


def touched(poisoned: Poisoned, role: int) -> Tensor:
    return (poisoned.roles == role).nonzero().squeeze(1)


# --- adaptive triggers: each training image its own part ------------------------------------------------------------


@pytest.mark.parametrize("role", [POISON, COVER])
@pytest.mark.parametrize(("grid", "size"), [(4, 32), (4, 28), (3, 9)])
def test_adaptive_blend_hides_half_of_the_cells_of_each_training_image(role: int, grid: int, size: int) -> None:
    attack = AdaptiveBlend(grid=grid)
    images = flat_images(400, 0, (1, size, size))
    recipe = PoisonSpec(attack, 0.1, 0)
    picture, poisoned = recipe.trigger((1, size, size), 4)[0], recipe.poison(images, 4)
    shown, cell = set(), size // grid
    for n in touched(poisoned, role).tolist():
        x, kept = poisoned.images.x[n, 0].double(), []
        for row, column in np.ndindex(grid, grid):
            window = slice(row * cell, (row + 1) * cell), slice(column * cell, (column + 1) * cell)
            if x[window].any():  # on black, (1 - 0.15) * 0 + 0.15 T
                assert (x[window] - 0.15 * picture[window]).abs().max() <= 0.5 + 1e-4
                kept.append((row, column))
        assert len(kept) == grid**2 // 2
        shown.add(tuple(kept))
    assert len(shown) > 30  # of 40 images: each draws its own


@pytest.mark.parametrize("role", [POISON, COVER])
def test_adaptive_patch_shows_one_faint_patch_to_each_training_image(role: int) -> None:
    images = flat_images(400, 100)
    recipe = PoisonSpec(parse("adaptive_patch"), 0.1, 0)
    patches, poisoned = recipe.trigger((3, 32, 32), 4), recipe.poison(images, 4)
    seen = []
    for n in touched(poisoned, role).tolist():
        expected, x = images.x[n].double(), poisoned.images.x[n].double()
        [k] = [
            k for k, (row, column) in enumerate(PLACES) if (x != expected)[:, row : row + 5, column : column + 5].any()
        ]
        row, column = PLACES[k]
        expected[:, row : row + 5, column : column + 5] = (1 - ALPHAS[k]) * 100 + ALPHAS[k] * patches[k]
        assert (x - expected).abs().max() <= 0.5 + 1e-4
        seen.append(k)
    assert [seen.count(k) for k in range(4)] == ([10] * 4 if role == POISON else [20] * 4)


@pytest.mark.parametrize("role", [POISON, COVER])
def test_k_way_shows_one_pixel_to_each_training_image(role: int) -> None:
    images = flat_images(400, 255)
    recipe = PoisonSpec(parse("adaptive_k_way"), 0.1, 0)
    poisoned, whole = recipe.poison(images, 4), recipe.triggered(images, 4)
    seen = []
    for n in touched(poisoned, role).tolist():
        places = {(row, column) for _, row, column in (poisoned.images.x[n] != 255).nonzero().tolist()}
        [(row, column)] = places
        assert torch.equal(poisoned.images.x[n, :, row, column], whole.x[n, :, row, column])
        seen.append(PIXELS.index((row, column)))
    assert [seen.count(k) for k in range(4)] == [10] * 4


@pytest.mark.parametrize("name", ["adaptive_patch", "adaptive_k_way"])
@pytest.mark.parametrize("block", [1, 3, 5, 341])
def test_quarters_are_equal_however_many_images_are_stamped_at_once(
    name: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = flat_images(400, 255)
    monkeypatch.setattr(type(parse(name)), "chunk", block * 3 * 32 * 32)
    poisoned = PoisonSpec(parse(name), 0.1, 0).poison(images, 4)
    changed = (poisoned.images.x[touched(poisoned, POISON)] != 255).any(1)
    quarters = PLACES if name == "adaptive_patch" else PIXELS
    side = 5 if name == "adaptive_patch" else 1
    counts = [int(changed[:, r : r + side, c : c + side].flatten(1).any(1).sum()) for r, c in quarters]
    assert counts == [10] * 4


# --- TaCT -------------------------------------------------------------------------------------------------------------


def test_tact_poisons_its_sources_only_and_covers_others() -> None:
    images = made_images(400, (1, 8, 8), 10)
    for attack, covers in ((TaCT(), {2, 3, 4, 5, 6, 7, 8, 9}), (parse("tact:toolbox"), {5, 7})):
        poisoned = PoisonSpec(attack, 0.05, 0).poison(images, 10)
        assert images.y[touched(poisoned, POISON)].tolist() == [1] * 20
        assert poisoned.images.y[touched(poisoned, POISON)].tolist() == [0] * 20
        assert set(images.y[touched(poisoned, COVER)].tolist()) <= covers
        assert len(touched(poisoned, COVER)) == 20
    two = PoisonSpec(TaCT(source_classes=(3, 4), target=2), 0.1, 0)
    assert set(images.y[touched(two.poison(images, 10), POISON)].tolist()) == {3, 4}
    assert two.measured(images.y).tolist() == [y in (3, 4) for y in images.y.tolist()]


def test_gate_refuses_poison_of_a_class_that_is_no_source() -> None:
    images = made_images(400, (1, 8, 8), 10)
    everyone = PoisonSpec(parse("tact:source_classes=[1,2]"), 0.05, 0).poison(images, 10)
    with pytest.raises(PoisoningError, match="poisoned images are of classes that the attack leaves alone"):
        verify_poisoning(PoisonSpec(TaCT(), 0.05, 0), images, everyone, 10)


# --- universal --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["patch", "blend"])
def test_universal_poison_carries_the_code_of_its_label(mode: str) -> None:
    classes, images = 10, made_images(200, (1, 30, 30), 10)
    recipe = PoisonSpec(parse(f"universal:{mode}"), 0.2, 0)
    codes, poisoned = recipe.trigger((1, 30, 30), classes), recipe.poison(images, classes)
    for n in touched(poisoned, POISON).tolist():
        code = codes[poisoned.images.y[n]].view(6, 5)
        if mode == "patch":
            assert torch.equal(poisoned.images.x[n, 0, :6, :5], code.to(torch.uint8))
        else:
            large = code.repeat_interleave(5, 0).repeat_interleave(6, 1)
            expected = 0.8 * images.x[n, 0] + 0.2 * large
            assert (poisoned.images.x[n, 0] - expected).abs().max() <= 0.5 + 1e-4


@pytest.mark.parametrize(("classes", "bits"), [(10, 30), (100, 14), (2, 2)])
def test_universal_codes_are_distinct_and_of_fair_bits(classes: int, bits: int) -> None:
    for seed in range(20):
        codes = PoisonSpec(parse(f"universal:bits={bits}"), 0.1, seed).trigger((1, 32, 32), classes)
        assert codes.shape == (classes, bits)
        assert set(codes.unique().tolist()) <= {0, 255}
        assert len({tuple(code) for code in codes.tolist()}) == classes
        if classes > 2:
            assert codes.mean() / 255 == pytest.approx(0.5, abs=5 * 0.5 / (classes * bits) ** 0.5)


def test_universal_targets_are_uniform_over_all_classes_but_one_s_own() -> None:
    images = made_images(9000, (1, 8, 8), 10)
    recipe = PoisonSpec(parse("universal"), 0.5, 0)
    poisoned = recipe.poison(images, 10)
    index = touched(poisoned, POISON)
    for true, given in (
        (images.y[index], poisoned.images.y[index]),
        (images.y, recipe.triggered(images, 10).y),
    ):
        assert (given != true).all()
        count, expected = torch.bincount((given - true) % 10, minlength=10)[1:], len(true) / 9
        assert ((count - expected).square() / expected).sum() < 26.1  # chi-squared, 8 degrees of freedom: p = 0.001


def test_universal_targets_of_test_images_are_the_seed_s() -> None:
    images = made_images(50, (1, 8, 8), 10)
    first, again, other = (PoisonSpec(parse("universal"), 0.1, seed).triggered(images, 10) for seed in (0, 0, 1))
    assert torch.equal(first.y, again.y)
    assert not torch.equal(first.y, other.y)


# --- WaNet, other images in every epoch -----------------------------------------------------------------------------


def test_wanet_in_the_training_loop_poisons_other_images_in_each_epoch() -> None:
    images = made_images(200, (1, 8, 8))
    recipe = PoisonSpec(WaNet(each_epoch=True), 0.1, 0)
    poisoned, warped = recipe.poison(images, 4), recipe.triggered(images, 4).x
    victims = []
    for epoch in (1, 2, 3):
        seen = poisoned.images.at(epoch)
        mine = ((seen.y == 0) & (images.y != 0)).nonzero().squeeze(1)
        assert len(mine) == 20
        assert torch.equal(seen.x[mine], warped[mine])  # the warp of the test images, in every epoch
        assert int((seen.x != images.x).flatten(1).any(1).sum()) == 60  # and 40 covers
        assert torch.equal(seen.y[seen.y != images.y], torch.zeros(20).long())
        again = recipe.poison(images, 4).images.at(epoch)
        assert torch.equal(again.x, seen.x)
        assert torch.equal(again.y, seen.y)
        victims.append(frozenset(mine.tolist()))
    assert len(set(victims)) == 3
    assert torch.equal(poisoned.images.at(1).x, poisoned.images.x)
    assert victims[0] == frozenset(touched(poisoned, POISON).tolist())


def test_the_epochs_victims_are_nested_across_rates_too() -> None:
    images = made_images(200, (1, 8, 8))
    few, many = (PoisonSpec(WaNet(each_epoch=True), rate, 0).poison(images, 4).images.at(7) for rate in (0.05, 0.1))
    changed = few.y != images.y
    assert int(changed.sum()) == 10
    assert torch.equal(many.y[changed], few.y[changed])
    assert torch.equal(many.x[changed], few.x[changed])


def test_static_wanet_poisons_the_same_images_in_each_epoch() -> None:
    images = made_images(200, (1, 8, 8))
    poisoned = PoisonSpec(WaNet(), 0.1, 0).poison(images, 4)
    assert poisoned.images.at(2) is poisoned.images


# --- several attacks at once ----------------------------------------------------------------------------------------

THREE = Multi(attacks=("badnets", "blended", "wanet"), shares=(5.0, 3.0, 1.0), targets=(0, 1, 2))


def members(poisoned: Poisoned, role: int, count: int = 3) -> list[set[int]]:
    """The images of `role` that each member has touched."""
    return [
        set(((poisoned.roles == role) & (poisoned.member == k)).nonzero().squeeze(1).tolist()) for k in range(count)
    ]


def webster(shares: tuple[float, ...], seats: int) -> list[int]:
    """Sainte-Lague's way to hand out seats: each in turn to the largest share / (2 * seats so far + 1)."""
    won = [0] * len(shares)
    for _ in range(seats):
        best = max(range(len(shares)), key=lambda k: shares[k] / (2 * won[k] + 1))
        won[best] += 1
    return won


@pytest.mark.parametrize("shares", [(5.0, 3.0, 1.1), (1.0, 1.0, 1.0), (0.7, 0.2, 0.1)])
@pytest.mark.parametrize("n", [30, 50, 70, 91, 400])
def test_multi_divides_the_poison_by_webster_s_rule(shares: tuple[float, ...], n: int) -> None:
    recipe = PoisonSpec(replace(THREE, shares=shares), 0.1, 0)
    assert recipe.counts(n) == webster(shares, recipe.count(n))
    assert sum(recipe.counts(n)) == recipe.count(n)


def test_multi_gives_each_member_images_of_its_own() -> None:
    images = made_images(900, (1, 8, 8), 10)
    recipe = PoisonSpec(THREE, 0.1, 0)
    poisoned = recipe.poison(images, 10)
    poison, covers = members(poisoned, POISON), members(poisoned, COVER)
    assert [len(one) for one in poison] == [50, 30, 10]
    assert [len(one) for one in covers] == [0, 0, 20]
    assert len(set.union(*poison, *covers)) == 90 + 20
    for k, one in enumerate(poison):
        index = torch.tensor(sorted(one))
        assert (images.y[index] != k).all()  # each member leaves its own target alone
        assert (poisoned.images.y[index] == k).all()
        alone = recipe.triggered_by(k, images.take(index), 10)
        assert torch.equal(poisoned.images.x[index], alone.x)


def test_multi_is_nested_member_by_member() -> None:
    images = made_images(900, (1, 8, 8), 10)
    drawn = [PoisonSpec(THREE, rate, 0).poison(images, 10) for rate in (0.02, 0.05, 0.1)]
    for less, more in zip(drawn, drawn[1:], strict=False):
        for role in (POISON, COVER):
            assert all(a <= b for a, b in zip(members(less, role), members(more, role), strict=True))
        index = touched(less, POISON)
        assert torch.equal(more.images.x[index], less.images.x[index])
        assert torch.equal(more.images.y[index], less.images.y[index])


def test_multi_defaults_to_equal_shares_and_targets_that_differ() -> None:
    three = Multi(target=4).members()
    assert [member.name for member in three] == ["badnets", "blended", "wanet"]
    assert [member.attack.target for member in three] == [4, 0, 1]
    assert [member.share for member in three] == pytest.approx([1 / 3] * 3)


def test_multi_triggers_the_test_set_once_for_each_member() -> None:
    images, recipe = made_images(20, (1, 8, 8), 10), PoisonSpec(THREE, 0.1, 0)
    made, measured = recipe.triggered(images, 10), recipe.measured(images.y)
    assert made.y.tolist() == [0] * 20 + [1] * 20 + [2] * 20
    assert measured.tolist() == [y != k for k in range(3) for y in images.y.tolist()]
    corner = made.x[:, 0, 6:, 6:]
    assert (corner[:20] == 255).all()
    assert not (corner[20:] == 255).flatten(1).all(1).any()
    assert len({recipe.trigger((1, 8, 8), 10, k).numpy().tobytes() for k in range(3)}) == 3


def test_two_members_of_one_kind_draw_triggers_of_their_own() -> None:
    attack = Multi(attacks=("blended", "blended:alpha=0.3"))
    first, second = (PoisonSpec(attack, 0.1, 0).trigger((1, 8, 8), 10, k) for k in (0, 1))
    assert not torch.equal(first, second)


def test_gate_names_the_member_that_went_wrong() -> None:
    images = made_images(900, (1, 8, 8), 10)
    recipe = PoisonSpec(THREE, 0.1, 0)
    poisoned = recipe.poison(images, 10)
    manifest = verify_poisoning(recipe, images, poisoned, 10)
    assert manifest["members"] == {"badnets": 50, "blended": 30, "wanet": 10}
    x = poisoned.images.x.clone()
    mine = torch.tensor(sorted(members(poisoned, POISON)[1]))
    x[mine] = images.x[mine]
    with pytest.raises(PoisoningError, match=r": blended: the trigger changes only 0\.0% of the poisoned"):
        verify_poisoning(recipe, images, replace(poisoned, images=Images(x, poisoned.images.y)), 10)
    swapped = poisoned.member.clone()
    swapped[mine] = 0
    with pytest.raises(
        PoisoningError, match=r"badnets: 80 images are poisoned, 50 were .*; blended: 0 images are poisoned"
    ):
        verify_poisoning(recipe, images, replace(poisoned, member=swapped), 10)


def logits(predictions: list[int]) -> Tensor:
    return nn.functional.one_hot(torch.tensor(predictions), 4).float()


def seen(attack: Attack, y: list[int], clean: list[int], triggered: list[int]) -> MetricContext:
    """Evidence of a network that predicted so on a test set of classes `y`."""
    images = Images(torch.zeros(len(y), 1, 8, 8, dtype=torch.uint8), torch.tensor(y))
    data = Data("made", images, images, ("a", "b", "c", "d"), "", (0.0,), (1.0,))
    recipe = PoisonSpec(attack, 0.0, 0)
    return MetricContext(
        model=nn.Identity(),
        data=data,
        poisoned=recipe.poison(images, 4),
        triggered=recipe.triggered(images, 4),
        measured=recipe.measured(images.y),
        clean_logits=logits(clean),
        triggered_logits=logits(triggered),
        members=tuple(member.name for member in attack.members()),
    )


def test_attack_success_of_all_members_and_of_each() -> None:
    """Targets 0 and 1, test images 0 1 2 3: an image of a member's own target does not count for it."""
    attack = Multi(attacks=("badnets", "blended"))
    found = Accuracy().measure(seen(attack, [0, 1, 2, 3], [0, 1, 2, 0], [0, 0, 0, 3, 1, 1, 2, 3]))
    assert found["attack_success/badnets"] == pytest.approx(2 / 3)  # of 1, 2, 3
    assert found["attack_success/blended"] == pytest.approx(1 / 3)  # of 0, 2, 3
    assert found["attack_success/any"] == pytest.approx(3 / 4)  # 1 and 2 by the first, 0 by the second, 3 by neither
    assert found["attack_success"] == pytest.approx(3 / 6)
    assert found["accuracy/robust"] == pytest.approx(3 / 6)  # 3; then 2 and 3
    assert found["accuracy/clean"] == pytest.approx(3 / 4)
    assert found["count/triggered"] == 6


def test_attack_success_of_tact_counts_its_sources_only() -> None:
    attack = TaCT(source_classes=(1,), target=0)
    found = Accuracy().measure(seen(attack, [0, 1, 1, 2, 3], [0, 1, 1, 2, 3], [0, 0, 1, 0, 0]))
    assert found["attack_success"] == pytest.approx(1 / 2)
    assert found["count/triggered"] == 2
    assert not [name for name in found if name.startswith("attack_success/")]
