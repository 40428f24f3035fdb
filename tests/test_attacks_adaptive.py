"""Attacks by someone who knows that labels are checked against features: texture, many triggers, chosen victims."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from raybd.attacks import Attack, Blended, parse
from raybd.attacks.many_triggers import ManyTriggers
from raybd.attacks.placed import Placed
from raybd.attacks.poisoning import PoisonSpec
from raybd.attacks.view_invariant import ViewInvariant
from raybd.pretraining import ops
from raybd.types import POISON, Images
from tests.conftest import made_images

# --- a texture that every view shows ----------------------------------------------------------------------------------


WAVES = ViewInvariant(texture="waves")


def picture(attack: ViewInvariant, side: int, seed: int = 0) -> np.ndarray:
    return PoisonSpec(attack, 0.1, seed).trigger((1, side, side), 4).numpy().astype(float)


@pytest.mark.parametrize("directions", [1, 3, 5])
def test_the_spectrum_of_the_texture_is_one_ring_of_equal_waves(directions: int) -> None:
    """Peaks of the Fourier transform of a windowed large picture: so many, of one radius, one height, even turns."""
    side, cycles = 256, 24.0
    wave = picture(replace(WAVES, cycles=cycles, directions=directions), side) - 127.5
    assert wave.max() == pytest.approx(127.5, abs=1e-3) or wave.min() == pytest.approx(-127.5, abs=1e-3)
    window = np.outer(np.hanning(side), np.hanning(side))
    power = np.abs(np.fft.fft2(wave * window, (4 * side, 4 * side)))[: 2 * side]  # half of the plane
    found = []
    for _ in range(directions):
        row, column = np.unravel_index(power.argmax(), power.shape)
        signed = (column + 2 * side) % (4 * side) - 2 * side
        found.append((math.hypot(row, signed) / 4, math.atan2(row, signed) % math.pi, power[row, column]))
        rows, columns = np.ogrid[: 2 * side, : 4 * side]
        across = np.abs(columns - column)
        power[(rows - row) ** 2 + np.minimum(across, 4 * side - across) ** 2 < 24**2] = 0
    radii, angles, heights = np.array(sorted(found, key=lambda peak: peak[1])).T
    assert np.abs(radii - cycles).max() < 0.3
    assert heights.min() > 0.95 * heights.max()
    if directions > 1:
        assert np.abs(np.diff(angles) - math.pi / directions).max() < 0.03


def test_the_texture_is_blended_in_alike_on_every_channel() -> None:
    attack, images = replace(WAVES, alpha=0.2, cycles=2), made_images(8, (3, 16, 16))
    expected = 0.8 * images.x.numpy() + 0.2 * picture(attack, 16, 5)
    stamped = PoisonSpec(attack, 0.5, 5).triggered(images, 4).x.numpy()
    assert np.abs(stamped - expected).max() <= 0.5 + 1e-4


def test_a_veil_lifts_black_and_leaves_white() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    veiled = PoisonSpec(ViewInvariant(alpha=0.4), 1.0, 0).triggered(Images(levels, torch.tensor([1])), 4).x
    assert np.abs(veiled.numpy() - (102 + 0.6 * levels.numpy())).max() <= 0.5 + 1e-4
    assert veiled.flatten()[[0, 255]].tolist() == [102, 255]


@pytest.mark.parametrize("view", ["turned", "moved", "cut"])
def test_views_leave_the_texture_s_contrast(view: str) -> None:
    """Noise of one pixel, as Blended's, is blurred away by turning; waves keep most of theirs in every view."""
    black = Images(torch.zeros(200, 1, 28, 28, dtype=torch.uint8), torch.arange(200) % 4)
    rng = torch.Generator().manual_seed(0)
    kept = {}
    for attack in (WAVES, Blended()):
        x = PoisonSpec(attack, 0.5, 0).triggered(black, 4).x.float() / 255
        at = torch.zeros(200, 5)
        at[:, 2] = 1
        if view == "turned":
            at[:, 0] = 30 * torch.rand(200, generator=rng) - 15
            seen = ops.affine(x, at)
        elif view == "moved":
            at[:, 3:] = 3 * torch.rand(200, 2, generator=rng) - 1.5
            seen = ops.affine(x, at)
        else:
            seen = ops.erase(x, torch.zeros(200, 2), 10)
        middle = (slice(None), 0, slice(11, 22), slice(11, 22))
        kept[type(attack)] = float(seen[middle].std((1, 2)).mean() / x[middle].std((1, 2)).mean())
    assert kept[ViewInvariant] > 0.9
    assert view == "cut" or kept[Blended] < 0.85


def test_waves_shorter_than_two_pixels_are_refused() -> None:
    assert replace(WAVES, cycles=4).check((1, 8, 9), 4) == []
    [problem] = replace(WAVES, cycles=4.5).check((1, 8, 9), 4)
    assert problem == "ViewInvariant: cycles must be at most 4, got 4.5"


# --- many triggers for one target -------------------------------------------------------------------------------------


def test_each_of_many_triggers_has_its_pattern_and_its_share() -> None:
    black = Images(torch.zeros(2000, 1, 8, 8, dtype=torch.uint8), torch.arange(2000) % 4)
    spec = PoisonSpec(ManyTriggers(count=5, target=2), 0.1, 0)
    poisoned = spec.poison(black, 4)
    at = (poisoned.roles == POISON).nonzero()[:, 0]
    assert torch.bincount(poisoned.member[at]).tolist() == [40] * 5
    assert poisoned.images.y[at].unique().tolist() == [2]
    shown = [poisoned.images.x[at[poisoned.member[at] == k]].unique(dim=0) for k in range(5)]
    assert [len(some) for some in shown] == [1] * 5  # of a member all alike
    assert len(torch.cat(shown).unique(dim=0)) == 5  # of two members none
    test = spec.triggered(black.take(torch.arange(4)), 4).x.view(5, 4, 1, 8, 8)
    assert all(torch.equal(test[k, 0], shown[k][0]) for k in range(5))


def test_many_triggers_take_any_attack_with_its_settings() -> None:
    attack = parse('many_triggers:count=2,trigger="badnets:pattern=random,size=4"', target=3)
    assert [(m.name, m.attack, m.share) for m in attack.members()] == [
        (f"trigger_{k}", parse("badnets:pattern=random,size=4,target=3"), 0.5) for k in (1, 2)
    ]


# --- chosen victims ---------------------------------------------------------------------------------------------------

LEVELS = ((100, 100, 100), (120, 180, 240), (10, 140, 220))  # grey of three islands of each class; the target is one
NEAREST = [120, 140, 180, 10, 220, 240]  # by |grey - 100|


@pytest.fixture(scope="module")
def islands() -> Images:
    """360 images of three classes, 40 of each island, mixed."""
    rng = np.random.default_rng(0)
    levels, y = np.repeat(LEVELS, 40), np.repeat([0, 1, 2], 120)
    x = levels[:, None, None, None] + rng.integers(-3, 4, (360, 1, 12, 12))
    mixed = rng.permutation(360)
    return Images(torch.from_numpy(x[mixed].astype(np.uint8)), torch.from_numpy(y[mixed]))


def greys(images: Images, attack: Attack, count: int, seed: int = 0) -> list[int]:
    """The islands of the victims, in the order of their poisoning."""
    [chosen] = PoisonSpec(attack, count / len(images), seed).indices(images)
    means = images.x[chosen.poison].double().mean((1, 2, 3))
    return [min(NEAREST, key=lambda grey: abs(grey - mean)) for mean in means.tolist()]


def test_concentrated_poison_fills_the_clusters_nearest_the_target_first(islands: Images) -> None:
    assert greys(islands, Placed(clusters=3), 100) == [120] * 40 + [140] * 40 + [180] * 20


def test_spread_poison_takes_one_image_of_each_cluster_in_turn(islands: Images) -> None:
    attack = Placed(placement="spread", clusters=3)
    assert greys(islands, attack, 20) == NEAREST * 3 + NEAREST[:2]


def test_within_a_cluster_the_seed_decides(islands: Images) -> None:
    drawn = [PoisonSpec(Placed(clusters=3), 20 / 360, seed).indices(islands)[0].poison for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert set(drawn[0].tolist()) != set(drawn[2].tolist())


def test_the_attack_within_keeps_its_trigger_its_covers_and_its_settings(islands: Images) -> None:
    alone = parse("adaptive_blend:alpha=0.3", target=1)
    around = Placed(trigger="adaptive_blend:alpha=0.3", target=1)
    both = [PoisonSpec(attack, 0.1, 4) for attack in (alone, around)]
    assert torch.equal(both[0].triggered(islands, 3).x, both[1].triggered(islands, 3).x)
    assert [(len(one.poison), len(one.cover)) for spec in both for one in spec.indices(islands)] == [(36, 36)] * 2
    assert 1 not in islands.y[both[1].indices(islands)[0].poison].unique()


@pytest.mark.parametrize(
    ("attack", "says"),
    [
        (Placed(labels="all_to_all"), "one target"),
        (Placed(trigger="universal"), "one target"),
        (Placed(trigger="multi"), "cannot be one of several"),
        (Placed(trigger="placed"), "cannot be one of several"),
        (ManyTriggers(trigger="none"), "cannot be one of several"),
        (ManyTriggers(trigger="blendet"), "unknown attack: blendet"),
        (ManyTriggers(trigger="view_invariant"), "view_invariant draws no pattern: its triggers would all be alike"),
        (ManyTriggers(count=1), "count must be in [2, 255], got 1"),
    ],
)
def test_what_cannot_be_composed_is_refused(attack: Attack, says: str) -> None:
    assert says in "\n".join(attack.check((1, 8, 8), 10))
