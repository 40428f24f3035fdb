"""Attacks that write, add or blend in place, each against its published definition worked out pixel by pixel.

The numbers (coordinates, colours, amplitudes) are those of the papers and toolkits, written down here by hand.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from raybd.attacks import Attack, parse
from raybd.attacks.base import Shape
from raybd.attacks.poisoning import PoisonSpec
from raybd.types import POISON, Images
from tests.conftest import made_images

Pixels = NDArray[np.int64]
WHITE, BLACK = 255, 0


def harsh_images(shape: Shape, n: int = 2, classes: int = 10) -> Images:
    """Noise in which one pixel of three is black or white: what overflows, overflows here."""
    images = made_images(n, shape, classes)
    extreme = torch.randint(0, 6, images.x.shape, generator=torch.Generator().manual_seed(1))
    images.x[extreme == 0], images.x[extreme == 1] = 0, 255
    return images


def triggered(attack: Attack, images: Images, seed: int = 0) -> Pixels:
    return PoisonSpec(attack, 0.0, seed).triggered(images, 10).x.numpy().astype(np.int64)


def pixels(images: Images) -> Pixels:
    return images.x.numpy().astype(np.int64)


def painted(images: Images, marks: dict[tuple[int, int], tuple[int, ...]]) -> Pixels:
    """`images` with the pixels of `marks` (row, column) set to a colour."""
    expected = pixels(images)
    for (row, column), colour in marks.items():
        for n in range(len(expected)):
            expected[n, :, row, column] = colour
    return expected


# --- BadNets ----------------------------------------------------------------------------------------------------------

CORNER = {(row, column): (WHITE,) for row in (29, 30, 31) for column in (29, 30, 31)}
TOOLBOX = dict.fromkeys(CORNER, (BLACK,)) | dict.fromkeys([(29, 31), (30, 30), (31, 29), (31, 31)], (WHITE,))
VIBE = {(4, 4): (180, 249, 112), (4, 5): (155, 50, 126), (5, 4): (234, 82, 68), (5, 5): (187, 201, 219)}
RED = {(row, column): (255, 0, 0) for row in range(5) for column in range(5)}
TOP_LEFT = {(row, column): (WHITE,) for row in range(3) for column in range(3)}


@pytest.mark.parametrize(
    ("preset", "marks"),
    [
        ("backdoorbench", CORNER),
        ("toolbox", TOOLBOX),
        ("vibe", VIBE),
        ("information_bottleneck", RED),
        ("top_left", TOP_LEFT),
    ],
)
def test_badnets_presets(preset: str, marks: dict[tuple[int, int], tuple[int, ...]]) -> None:
    images = harsh_images((3, 32, 32))
    assert np.array_equal(triggered(parse(f"badnets:{preset}"), images), painted(images, marks))


@pytest.mark.parametrize(
    ("corner", "row", "column"),
    [("top_left", 0, 0), ("top_right", 0, 7), ("bottom_left", 6, 0), ("bottom_right", 6, 7), ("[3,1]", 3, 1)],
)
def test_badnets_position_and_colour(corner: str, row: int, column: int) -> None:
    images = made_images(2, (3, 8, 9))
    marks = {(row + i, column + j): (255, 0, 7) for i in (0, 1) for j in (0, 1)}
    attack = parse(f"badnets:size=2,position={corner},colour=[255,0,7]")
    assert np.array_equal(triggered(attack, images), painted(images, marks))


def test_badnets_on_grey_images_takes_the_brightness_of_the_colour() -> None:
    images = made_images(2, (1, 28, 28))
    red = {(row, column): (76,) for row in range(5) for column in range(5)}  # 0.299 * 255 = 76.2
    attack = parse("badnets:size=5,position=top_left,colour=[255,0,0]")
    assert np.array_equal(triggered(attack, images), painted(images, red))


def test_badnets_one_random_patch_for_each_true_class() -> None:
    """Learning curves: each class has its own noise; an image carries that of its own class, in training and test."""
    images, attack = made_images(400, (1, 28, 28), 4), parse("badnets:learning_curves")
    recipe = PoisonSpec(attack, 0.25, 0)
    patches = [recipe.triggered(images.take(images.y == c), 4).x[:, 0, 25:, 25:] for c in range(4)]
    for patch in patches:
        assert (patch == patch[0]).all()
    assert len({patch[0].numpy().tobytes() for patch in patches}) == 4
    assert torch.stack([patch[0] for patch in patches]).unique().numel() > 20  # 36 draws of 256: noise
    poisoned = recipe.poison(images, 4)
    for n in (poisoned.roles == POISON).nonzero().squeeze(1).tolist():
        assert torch.equal(poisoned.images.x[n, 0, 25:, 25:], patches[int(images.y[n])][0])
    assert torch.equal(poisoned.images.x[:, :, :25], images.x[:, :, :25])


def test_badnets_random_patch_is_noise_of_the_seed() -> None:
    images, attack = made_images(2, (3, 32, 32)), parse("badnets:pattern=random,size=9")
    first, other = triggered(attack, images, 0), triggered(attack, images, 1)
    assert np.array_equal(first[0, :, 23:, 23:], first[1, :, 23:, 23:])
    assert not np.array_equal(first[0, :, 23:, 23:], other[0, :, 23:, 23:])
    assert len(np.unique(first[0, :, 23:, 23:])) > 100  # of 243 draws from 256


# --- full pictures ----------------------------------------------------------------------------------------------------


def mixed(images: Images, noise: Pixels, alpha: float) -> NDArray[np.float64]:
    """(1 - alpha) x + alpha T, one value after another."""
    clean = pixels(images)
    expected = np.empty(clean.shape)
    for place in np.ndindex(*clean.shape):
        expected[place] = (1 - alpha) * clean[place] + alpha * noise[place[1:]]
    return expected


@pytest.mark.parametrize(
    ("text", "alpha"),
    [
        ("blended", 0.2),
        ("blended:vibe", 0.1),
        ("blended:information_bottleneck", 0.3),
        ("blended:alpha=1", 1.0),
    ],
)
def test_blended_mixes_in_one_noise_picture(text: str, alpha: float) -> None:
    images, attack = harsh_images((3, 8, 8)), parse(text)
    noise = PoisonSpec(attack, 0.0, 4).trigger((3, 8, 8), 10).numpy()
    assert np.abs(triggered(attack, images, 4) - mixed(images, noise, alpha)).max() <= 0.5 + 1e-4  # rounded
    assert not np.array_equal(noise, PoisonSpec(attack, 0.0, 5).trigger((3, 8, 8), 10).numpy())


@pytest.mark.parametrize("text", ["blended", "blended:information_bottleneck", "adaptive_blend"])
def test_the_noise_is_uniform_over_all_grey_levels(text: str) -> None:
    noise = PoisonSpec(parse(text), 0.0, 0).trigger((3, 64, 64), 10)
    drawn = noise[0]
    assert (drawn.min(), drawn.max()) == (0, 255)
    assert drawn.mean() == pytest.approx(127.5, abs=5 * 73.9 / 64)  # 73.9 is the deviation of 0 ... 255
    assert drawn.std() == pytest.approx(73.9, abs=3)
    assert torch.equal(drawn, drawn.round())
    same = torch.equal(noise[0], noise[1]) and torch.equal(noise[0], noise[2])
    assert same == (text == "blended:information_bottleneck")  # that one is grey


@pytest.mark.parametrize("channels", [1, 3])
def test_blended_takes_a_picture_from_a_file(channels: int, tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(60) * 2, np.arange(90)).astype(np.uint8)
    colours = np.stack([smooth, 255 - smooth, smooth // 2], 2)
    Image.fromarray(colours).save(tmp_path / "mine.png")
    images = made_images(2, (channels, 8, 8))
    small = Image.fromarray(colours).resize((8, 8), Image.Resampling.BILINEAR)
    picture = np.asarray(small.convert("L"))[None] if channels == 1 else np.asarray(small).transpose(2, 0, 1)
    attack = parse(f"blended:alpha=0.5,image={tmp_path / 'mine.png'}")
    assert np.abs(triggered(attack, images) - mixed(images, picture.astype(np.int64), 0.5)).max() <= 1


@pytest.mark.parametrize(("text", "strength"), [("invisible_grid", 10), ("invisible_grid:visible", 75)])
@pytest.mark.parametrize("shape", [(1, 7, 8), (3, 8, 8)], ids=str)
def test_invisible_grid_brightens_every_other_pixel_of_every_other_row(text: str, strength: int, shape: Shape) -> None:
    images = harsh_images(shape)
    expected = pixels(images)
    for n, c, row, column in np.ndindex(*expected.shape):
        if row in (0, 2, 4, 6) and column in (0, 2, 4, 6):
            expected[n, c, row, column] = min(255, expected[n, c, row, column] + strength)
    assert np.array_equal(triggered(parse(text), images), expected)


@pytest.mark.parametrize(("text", "delta"), [("sig", 40), ("sig:toolbox", 30)])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8)], ids=str)
def test_sig_adds_six_waves_along_the_columns(text: str, delta: int, shape: Shape) -> None:
    images = harsh_images(shape)
    expected = pixels(images).astype(float)
    for n, c, row, column in np.ndindex(*expected.shape):
        expected[n, c, row, column] += delta * math.sin(2 * math.pi * column * 6 / shape[2])
    assert np.abs(triggered(parse(text), images) - expected.clip(0, 255)).max() <= 0.5 + 1e-4


def test_low_frequency_is_one_smooth_picture_of_the_lowest_waves() -> None:
    images, attack = harsh_images((3, 32, 32)), parse("low_frequency")
    picture = PoisonSpec(attack, 0.0, 0).trigger((3, 32, 32), 10).numpy()
    for channel in picture:
        assert channel.min() == pytest.approx(0, abs=1e-5)
        assert channel.max() == pytest.approx(51, abs=1e-4)  # a fifth of white
        waves = dctn(channel.astype(float), norm="ortho")
        assert np.abs(waves[:4, :4]).max() > 10
        waves[:4, :4] = 0
        assert np.abs(waves).max() < 1e-3
    assert np.abs(triggered(attack, images) - (pixels(images) + picture).clip(0, 255)).max() <= 0.5 + 1e-4
    assert not np.array_equal(picture, PoisonSpec(attack, 0.0, 1).trigger((3, 32, 32), 10).numpy())


@pytest.mark.parametrize(("shape", "length"), [((1, 8, 8), 4), ((1, 28, 28), 40), ((3, 32, 32), 154)], ids=str)
def test_primitive_writes_one_run_of_black_and_white(shape: Shape, length: int) -> None:
    """5 % of all values, rounded up, at one place of the flattened image that the seed draws."""
    grey = Images(torch.full((2, *shape), 100, dtype=torch.uint8), torch.arange(2))
    starts, values = set(), set()
    for seed in range(12):
        made = triggered(parse("primitive"), grey, seed).reshape(2, -1)
        places = np.flatnonzero(made[0] != 100)
        assert np.array_equal(made[0], made[1])
        assert places.tolist() == list(range(places[0], places[0] + length))
        starts.add(int(places[0]))
        values |= set(made[0, places].tolist())
    assert len(starts) > 6
    assert values == {0, 255}


# --- TaCT, k-way, patches, codes --------------------------------------------------------------------------------------


def test_tact_writes_a_square_of_noise_at_row_and_column_21() -> None:
    black, white = (Images(torch.full((2, 3, 32, 32), v, dtype=torch.uint8), torch.ones(2).long()) for v in (0, 255))
    first, second = triggered(parse("tact"), black), triggered(parse("tact"), white)
    square = first[0, :, 21:29, 21:29].copy()
    for made, background in ((first, 0), (second, 255)):
        assert (made[:, :, 21:29, 21:29] == square).all()
        made[:, :, 21:29, 21:29] = background
        assert (made == background).all()
    assert len(np.unique(square)) > 100  # of 192 draws from 256


KWAY = {(16, 11): (92, 0, 24), (27, 5): (88, 112, 110), (7, 30): (0, 32, 46), (22, 22): (11, 49, 95)}


def test_k_way_writes_four_pixels() -> None:
    images = harsh_images((3, 32, 32))
    assert np.array_equal(triggered(parse("adaptive_k_way"), images), painted(images, KWAY))


def test_k_way_scales_with_the_image_and_is_grey_on_grey_images() -> None:
    images = made_images(2, (1, 64, 64))
    # 0.299 R + 0.587 G + 0.114 B of the colours above, at twice their rows and columns
    marks = {(32, 22): (30,), (54, 10): (105,), (14, 60): (24,), (44, 44): (43,)}
    assert np.array_equal(triggered(parse("adaptive_k_way"), images), painted(images, marks))


@pytest.mark.parametrize(
    ("text", "shown"),
    [("adaptive_patch", (0, 2)), ("adaptive_patch:all_at_test", (0, 1, 2, 3)), ("adaptive_patch:at_test=[3]", (3,))],
)
def test_adaptive_patch_shows_opaque_patches_at_test(text: str, shown: tuple[int, ...]) -> None:
    images = harsh_images((3, 32, 32))
    corners = [(1, 1), (1, 26), (26, 1), (26, 26)]
    made, expected = triggered(parse(text), images), pixels(images)
    for row, column in (corners[k] for k in shown):
        patch = made[0, :, row : row + 5, column : column + 5]
        assert len(np.unique(patch)) > 40  # of 75 draws from 256
        expected[:, :, row : row + 5, column : column + 5] = patch
    assert np.array_equal(made, expected)


def test_adaptive_blend_shows_the_whole_picture_at_test() -> None:
    images = harsh_images((3, 16, 16))
    noise = PoisonSpec(parse("adaptive_blend"), 0.0, 0).trigger((3, 16, 16), 10).numpy()
    assert np.abs(triggered(parse("adaptive_blend"), images) - mixed(images, noise, 0.2)).max() <= 0.5 + 1e-4


@pytest.mark.parametrize(("shape", "side"), [((3, 32, 32), 1), ((3, 224, 224), 8), ((1, 8, 8), 1)], ids=str)
def test_universal_patch_writes_the_code_of_the_wanted_class_in_cells(shape: Shape, side: int) -> None:
    images, recipe = made_images(4, shape, 10), PoisonSpec(parse("universal"), 0.0, 0)
    codes, made = recipe.trigger(shape, 10), recipe.triggered(images, 10)
    expected = pixels(images)
    for n in range(4):
        for bit in range(30):
            row, column = bit // 5 * side, bit % 5 * side
            expected[n, :, row : row + side, column : column + side] = int(codes[made.y[n], bit])
    assert np.array_equal(made.x.numpy(), expected)


def test_universal_blend_mixes_the_cells_over_the_whole_image() -> None:
    images, recipe = harsh_images((3, 30, 30), 3), PoisonSpec(parse("universal:blend"), 0.0, 0)
    codes, made = recipe.trigger((3, 30, 30), 10), recipe.triggered(images, 10)
    expected = 0.8 * pixels(images)
    for n, c, row, column in np.ndindex(*expected.shape):
        bit = row // 5 * 5 + column // 6  # six rows of five cells
        expected[n, c, row, column] += 0.2 * float(codes[made.y[n], bit])
    assert np.abs(made.x.numpy() - expected).max() <= 0.5 + 1e-4
