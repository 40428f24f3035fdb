"""One contract over the whole table, then each attack against its formula worked out another way."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from raybd.attacks import ATTACKS, Attack, BadNets, Blended, NoAttack
from raybd.attacks.gate import inspect
from raybd.attacks.recipe import Recipe, digest
from raybd.errors import GateError, InputError
from raybd.plugins import build, spec
from raybd.types import CLEAN, COVER, POISON, Images
from tests.conftest import made_images

POISONING = sorted(name for name, attack in ATTACKS.items() if attack is not NoAttack)
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64)]


def make(name: str, **settings: object) -> Attack:
    return build("attack", ATTACKS, {"name": name} | settings)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", POISONING)
def test_contract(name: str, shape: tuple[int, int, int]) -> None:
    images, attack = made_images(200, shape, 4), make(name)
    recipe = Recipe(attack, 0.1, seed=3)
    poisoned = recipe.poison(images, 4)
    touched = poisoned.roles == POISON

    assert attack.check(shape, 4) == []
    assert int(touched.sum()) == 20
    assert torch.equal(poisoned.images.x[~touched], images.x[~touched])
    assert (poisoned.images.x[touched] != images.x[touched]).flatten(1).any(1).all()
    assert torch.equal(poisoned.images.y[~touched], images.y[~touched])
    if attack.clean_label:
        assert torch.equal(poisoned.images.y, images.y)
        assert (images.y[touched] == 0).all()
    else:
        assert (poisoned.images.y[touched] == 0).all()
        assert (images.y[touched] != 0).all()
    assert poisoned.images.x.dtype == torch.uint8
    manifest = inspect(recipe, images, poisoned, 4)
    assert (manifest["poison"], manifest["cover"], manifest["clean"]) == (20, 0, 180)
    json.dumps(manifest)


@pytest.mark.parametrize("name", POISONING)
def test_same_seed_same_bits_other_seed_other_victims(name: str) -> None:
    images = made_images(200, (3, 16, 16), 4)
    first, again, other = (Recipe(make(name), 0.1, seed).poison(images, 4) for seed in (0, 0, 1))
    assert torch.equal(first.images.x, again.images.x)
    assert torch.equal(first.roles, again.roles)
    assert not torch.equal(first.roles, other.roles)


@pytest.mark.parametrize("name", POISONING)
def test_victims_are_nested_across_rates(name: str) -> None:
    y = made_images(400).y
    sets = [set(Recipe(make(name), rate, 5).victims(y).tolist()) for rate in (0.01, 0.05, 0.1, 0.2)]
    assert [len(s) for s in sets] == [4, 20, 40, 80]
    assert all(small < large for small, large in zip(sets, sets[1:], strict=False))


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_settings_survive_json(name: str) -> None:
    attack = make(name, target=2)
    assert build("attack", ATTACKS, json.loads(json.dumps(spec(ATTACKS, attack)))) == attack


@pytest.mark.parametrize("name", POISONING)
def test_batch_size_does_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images, recipe = made_images(50, (3, 16, 16)), Recipe(make(name), 0.1, 0)
    whole = recipe.triggered(images, 4).x
    monkeypatch.setattr("raybd.attacks.base.CHUNK", 7 * 3 * 16 * 16)
    assert torch.equal(recipe.triggered(images, 4).x, whole)


def test_victims_are_the_same_for_every_attack_of_one_seed() -> None:
    y = made_images(400).y
    assert torch.equal(Recipe(BadNets(), 0.1, 7).victims(y), Recipe(Blended(), 0.1, 7).victims(y))


def test_victims_from_all_classes() -> None:
    images = made_images(4000)
    victims = Recipe(BadNets(victims="all"), 0.5, 0).victims(images.y)
    counts = torch.bincount(images.y[victims], minlength=4)
    # 2,000 of 4,000 without replacement: each class is hypergeometric, mean 500, sd 19.4
    assert (counts - 500).abs().max() < 5 * 19.4
    assert len(victims.unique()) == 2000


def test_all_to_all_moves_every_class_up_by_one() -> None:
    images, recipe = made_images(40, classes=4), Recipe(BadNets(labels="all_to_all"), 0.5, 0)
    poisoned = recipe.poison(images, 4)
    touched = poisoned.roles == POISON
    up = {0: 1, 1: 2, 2: 3, 3: 0}
    assert poisoned.images.y[touched].tolist() == [up[c] for c in images.y[touched].tolist()]
    assert recipe.triggered(images, 4).y.tolist() == [up[c] for c in images.y.tolist()]
    assert recipe.attack.measured(images.y).all()


def test_asr_leaves_the_target_class_out() -> None:
    assert BadNets(target=2).measured(torch.tensor([0, 2, 1, 2])).tolist() == [True, False, True, False]


# --- the formulas, pixel by pixel ---------------------------------------------------------------------------------


def test_badnets_is_a_white_corner() -> None:
    images = made_images(2, (3, 32, 32))
    expected = images.x.numpy().copy()
    for n in range(2):
        for row in (29, 30, 31):
            for column in (29, 30, 31):
                expected[n, :, row, column] = 255
    assert np.array_equal(Recipe(BadNets(), 0.0, 0).triggered(images, 4).x.numpy(), expected)


@pytest.mark.parametrize(
    ("corner", "row", "column"),
    [("top_left", 0, 0), ("top_right", 0, 6), ("bottom_left", 6, 0), ("bottom_right", 6, 6)],
)
def test_badnets_corner_and_colour(corner: str, row: int, column: int) -> None:
    x = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)
    stamped = BadNets(size=2, corner=corner, colour=(255, 0, 7)).apply(x, torch.empty(0))  # type: ignore[arg-type]
    expected = x.clone()
    expected[0, :, row : row + 2, column : column + 2] = torch.tensor([255, 0, 7], dtype=torch.uint8).view(3, 1, 1)
    assert torch.equal(stamped, expected)


@pytest.mark.parametrize(("side", "patch"), [(8, 2), (28, 3), (32, 3), (64, 6), (224, 21)])
def test_badnets_patch_grows_with_the_image(side: int, patch: int) -> None:
    assert BadNets().side((3, side, side)) == patch


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0])
def test_blended_mixes_in_one_noise_image(alpha: float) -> None:
    images, recipe = made_images(2, (3, 8, 8)), Recipe(Blended(alpha=alpha), 0.0, seed=4)
    noise = recipe.trigger((3, 8, 8)).numpy()
    stamped = recipe.triggered(images, 4).x.numpy().astype(int)
    exact = (1 - alpha) * images.x.numpy().astype(np.float64) + alpha * noise
    assert np.abs(stamped - exact).max() <= 0.5 + 1e-4  # rounded, and halves fall either way in float32
    assert noise.min() >= 0
    assert noise.max() <= 255
    assert noise.mean() == pytest.approx(127.5, abs=5 * 73.9 / np.sqrt(noise.size))  # sd of 0..255 is 73.9


def test_blended_noise_is_one_image_per_seed() -> None:
    first, other = (digest(Recipe(Blended(), 0.1, seed).trigger((1, 8, 8))) for seed in (0, 1))
    assert first != other


@dataclass(frozen=True, kw_only=True)
class Planted(Attack):
    """Adds a constant: a test's own attack."""

    by: float = 30.0

    def stamp(self, x: Tensor, trigger: Tensor) -> Tensor:
        return x + self.by


def test_bright_pixels_are_clipped_and_never_wrap() -> None:
    x = torch.tensor([0, 100, 250, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    assert Planted(by=30).apply(x, torch.empty(0)).flatten().tolist() == [30, 130, 255, 255]
    assert Planted(by=-30).apply(x, torch.empty(0)).flatten().tolist() == [0, 70, 220, 225]


# --- the gate ------------------------------------------------------------------------------------------------------


def gate(attack: Attack, clean: Images, rate: float = 0.1, **changes: object) -> dict[str, object]:
    recipe = Recipe(attack, rate, 0)
    return inspect(recipe, clean, replace(recipe.poison(clean, 4), **changes), 4)  # type: ignore[arg-type]


def test_gate_refuses_a_trigger_that_rounding_swallows() -> None:
    with pytest.raises(GateError, match=r"changes only 0\.0% of the poisoned images"):
        gate(Planted(by=0.4), made_images(100))


def test_gate_lets_a_clean_set_pass() -> None:
    assert gate(Planted(by=0.0), made_images(100), rate=0.0)["poison"] == 0


def test_gate_counts() -> None:
    images = made_images(100)
    roles = Recipe(BadNets(), 0.1, 0).poison(images, 4).roles
    roles[roles == CLEAN] = POISON
    with pytest.raises(GateError, match="100 images are poisoned, 10 were asked for"):
        gate(BadNets(), images, roles=roles)


def test_gate_does_not_take_a_cover_for_poison() -> None:
    images = made_images(100)
    roles = Recipe(BadNets(), 0.1, 0).poison(images, 4).roles
    roles[(roles == POISON).nonzero()[0]] = COVER
    with pytest.raises(GateError, match="9 images are poisoned, 10 were asked for"):
        gate(BadNets(), images, roles=roles)


def test_gate_sees_a_label_that_moved() -> None:
    images = made_images(100)
    poisoned = Recipe(BadNets(), 0.1, 0).poison(images, 4).images
    y = poisoned.y.clone()
    y[(poisoned.y == images.y).nonzero()[0]] += 1
    with pytest.raises(GateError, match="1 labels are not what the attack makes of them"):
        gate(BadNets(), images, images=Images(poisoned.x, y))


def test_gate_sees_a_pixel_that_moved() -> None:
    images = made_images(100)
    recipe = Recipe(BadNets(), 0.1, 0)
    poisoned = recipe.poison(images, 4)
    x = poisoned.images.x.clone()
    x[(poisoned.roles == CLEAN).nonzero()[0], 0, 0, 0] ^= 1
    with pytest.raises(GateError, match="images outside the poison and the covers have changed"):
        gate(BadNets(), images, images=Images(x, poisoned.images.y))


@dataclass(frozen=True, kw_only=True)
class Unseeded(Attack):
    """Draws its trigger anew each time it is asked: the silent failure of VIBE's WaNet."""

    def draw(self, shape: tuple[int, int, int], rng: torch.Generator) -> Tensor:
        return torch.rand(shape) * 255

    def stamp(self, x: Tensor, trigger: Tensor) -> Tensor:
        return (x + trigger) / 2


def test_gate_refuses_a_trigger_that_differs_between_training_and_test() -> None:
    with pytest.raises(GateError, match="the trigger in training .* is not that at test"):
        gate(Unseeded(), made_images(100))


# --- what is refused before any work --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attack", "says"),
    [
        (BadNets(target=4), "target 4 is no class (allowed: 0 to 3)"),
        (BadNets(target=-1), "target -1 is no class"),
        (BadNets(size=9), "a patch of 9 pixels does not fit images of 8x8 (allowed: 1 to 8)"),
        (BadNets(size=0), "a patch of 0 pixels does not fit"),
        (BadNets(corner="middle"), "unknown corner 'middle' (known: top_left, top_right, bottom_left, bottom_right)"),  # type: ignore[arg-type]
        (BadNets(colour=(1, 2)), "colour (1, 2) must be 1 or 1 values"),
        (BadNets(colour=(256,)), "colour (256,)"),
        (Blended(alpha=0.0), "alpha 0 is not in (0, 1]"),
        (Blended(alpha=1.5), "alpha 1.5 is not in (0, 1]"),
        (BadNets(labels="some"), "unknown labels 'some'"),  # type: ignore[arg-type]
        (BadNets(victims="some"), "unknown victims 'some'"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_make_no_sense(attack: Attack, says: str) -> None:
    assert says in "\n".join(attack.check((1, 8, 8), 4))


@pytest.mark.parametrize(
    ("rate", "says"),
    [
        (-0.1, "poison rate -0.1 is no share (allowed: 0 to 1)"),
        (1.1, "poison rate 1.1 is no share"),
        (0.001, "poison rate 0.001 of 100 images poisons nobody (the least rate is 0.01)"),
        (0.9, "asks for 90 images, but only 75 of 100 may be poisoned (the largest rate is 0.75)"),
    ],
)
def test_rates_that_cannot_be_had(rate: float, says: str) -> None:
    assert says in "\n".join(Recipe(BadNets(), rate, 0).check(made_images(100).y))


def test_clean_label_attacks_are_held_to_the_share_of_their_class() -> None:
    @dataclass(frozen=True, kw_only=True)
    class CleanLabel(Planted):
        clean_label = True

    images = made_images(100)
    assert "only 25 of 100 may be poisoned" in "\n".join(Recipe(CleanLabel(), 0.3, 0).check(images.y))
    poisoned = Recipe(CleanLabel(), 0.2, 0).poison(images, 4)
    assert (images.y[poisoned.roles == POISON] == 0).all()
    assert torch.equal(poisoned.images.y, images.y)


def test_unknown_names_come_with_the_known_ones() -> None:
    with pytest.raises(
        InputError, match=r"unknown attack: badnetz \(known: badnets, blended, none; did you mean badnets\?\)"
    ):
        build("attack", ATTACKS, {"name": "badnetz"})
    with pytest.raises(
        InputError, match=r"unknown setting of attack blended: alfa \(known: .*alpha.*did you mean alpha"
    ):
        build("attack", ATTACKS, {"name": "blended", "alfa": 0.3})
