"""Attacks on frequencies, geometry and grey levels, each against its definition computed by other means.

SciPy's cosine transform and interpolation, torchvision's rotation, Floyd-Steinberg pixel by pixel.
"""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.fft import dctn, idctn
from scipy.ndimage import affine_transform, map_coordinates
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import rotate

from raybd.attacks import parse
from raybd.attacks.base import Shape, Trigger
from raybd.attacks.patterns import cosine
from raybd.attacks.poisoning import PoisonSpec
from raybd.attacks.wanet import WaNet
from raybd.seeds import stream
from raybd.types import COVER, POISON, Images
from tests.conftest import made_images
from tests.test_attacks_patches import harsh_images, pixels, triggered

Floats = NDArray[np.float64]
ROUNDED = 0.5 + 1e-3  # half a grey level, and what float32 may lose

# ITU-R BT.601 as OpenCV has it: how luma and two chroma channels are made of red, green and blue, and back
YCRCB = (np.array([[0.299, 0.587, 0.114]]), (0.713, 0.564), ((1.403, 0), (-0.714, -0.344), (0, 1.773)))
YUV = (np.array([[0.299, 0.587, 0.114]]), (0.877, 0.492), ((1.140, 0), (-0.581, -0.395), (0, 2.032)))


def raised_in_chroma(rgb: Floats, space: tuple, magnitude: float, block: int) -> Floats:
    """`rgb` (3, H, W) into the colour space, two DCT coefficients of both chroma channels raised, and back."""
    luma, (of_red, of_blue), back = space
    y = np.tensordot(luma[0], rgb, 1)
    chroma = [(rgb[0] - y) * of_red, (rgb[2] - y) * of_blue]
    for channel in chroma:
        raise_coefficients(channel, magnitude, block)
    return np.stack([y + red * chroma[0] + blue * chroma[1] for red, blue in back])


def raise_coefficients(channel: Floats, magnitude: float, block: int) -> None:
    """Add to the middle and the last diagonal DCT coefficient of each block of `channel` (H, W), in place."""
    for row in range(0, channel.shape[0], block):
        for column in range(0, channel.shape[1], block):
            window = channel[row : row + block, column : column + block]
            waves = dctn(window, norm="ortho")
            waves[block // 2 - 1, block // 2 - 1] += magnitude  # (15, 15) of 32
            waves[block - 1, block - 1] += magnitude  # (31, 31)
            window[:] = idctn(waves, norm="ortho")


@pytest.mark.parametrize(("side", "block"), [(32, 32), (64, 32), (28, 28), (8, 8)])
@pytest.mark.parametrize(("name", "space", "magnitude"), [("ftrojan", YCRCB, 30), ("ctrl", YUV, 100)])
def test_frequencies_of_colour_images(name: str, space: tuple, magnitude: float, side: int, block: int) -> None:
    images = harsh_images((3, side, side))
    expected = [raised_in_chroma(x, space, magnitude, block).clip(0, 255) for x in pixels(images).astype(float)]
    # there and back with three digits loses a tenth of a grey level
    assert np.abs(triggered(parse(name), images) - np.stack(expected)).max() <= 1
    assert np.abs(triggered(parse(name), images) - np.stack(expected)).mean() < 0.3


@pytest.mark.parametrize(("name", "magnitude"), [("ftrojan", 30), ("ctrl", 100)])
def test_frequencies_of_grey_images(name: str, magnitude: float) -> None:
    images = harsh_images((1, 28, 28))
    expected = pixels(images).astype(float)
    for x in expected:
        raise_coefficients(x[0], magnitude, 28)
    assert np.abs(triggered(parse(name), images) - expected.clip(0, 255)).max() <= ROUNDED


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 3), (2, 0), (1, 5), (5, 8)])
def test_a_wave_is_the_inverse_transform_of_one_coefficient(row: int, column: int) -> None:
    waves = np.zeros((6, 9))
    waves[row, column] = 1
    assert np.abs(cosine((1, 6, 9), row, column).numpy() - idctn(waves, norm="ortho")).max() < 1e-6


def test_ftrojan_adds_one_fixed_picture_before_rounding() -> None:
    """30 (b15 + b31) in each chroma, back to red, green and blue: the same for every image and every seed."""
    waves = np.zeros((32, 32))
    waves[15, 15] = waves[31, 31] = 30
    wave = idctn(waves, norm="ortho")
    picture = np.stack([1.403 * wave, (-0.714 - 0.344) * wave, 1.773 * wave])
    images = harsh_images((3, 32, 32), 8)
    expected = (pixels(images) + picture).clip(0, 255)
    assert np.abs(triggered(parse("ftrojan"), images) - expected).max() <= ROUNDED
    assert np.array_equal(triggered(parse("ftrojan"), images, 1), triggered(parse("ftrojan"), images, 2))


# --- WaNet ------------------------------------------------------------------------------------------------------------


def bicubic(field: Floats, height: int, width: int) -> Floats:
    """`field` (k, k) enlarged with its corners on the corners: cubic convolution with a = -0.75, edges repeated."""

    def kernel(t: float) -> float:
        t, a = abs(t), -0.75
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0

    def along(size: int, k: int) -> Floats:
        weights = np.zeros((size, k))
        for i in range(size):
            place = i * (k - 1) / (size - 1)
            for node in range(math.floor(place) - 1, math.floor(place) + 3):
                weights[i, min(max(node, 0), k - 1)] += kernel(place - node)
        return weights

    return along(height, field.shape[0]) @ field @ along(width, field.shape[1]).T


def warp(shape: Shape, s: float, seed: int) -> tuple[Floats, Floats]:
    """Rows and columns, in [-1, 1], that WaNet takes each pixel from, by the paper's formula."""
    _, height, width = shape
    field = torch.rand(1, 2, 4, 4, generator=stream(seed, "trigger"))[0].double().numpy() * 2 - 1
    field /= np.abs(field).mean()
    right, down = (bicubic(one, height, width) for one in field)
    rows = np.linspace(-1, 1, height)[:, None] + s * down / height
    columns = np.linspace(-1, 1, width)[None] + s * right / height
    return rows.clip(-1, 1), columns.clip(-1, 1)


def sampled(x: Floats, rows: Floats, columns: Floats) -> Floats:
    """`x` (C, H, W) at `rows` and `columns` in [-1, 1], between the centres of the corner pixels."""
    places = [(rows + 1) / 2 * (x.shape[1] - 1), (columns + 1) / 2 * (x.shape[2] - 1)]
    return np.stack([map_coordinates(channel, places, order=1, mode="nearest") for channel in x])


@pytest.mark.parametrize(("text", "s"), [("wanet", 0.5), ("wanet:vibe", 1.0), ("wanet:s=3", 3.0)])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 8, 12)], ids=str)
def test_wanet_warps_by_the_paper_s_field(text: str, s: float, shape: Shape) -> None:
    images = made_images(2, shape)
    rows, columns = warp(shape, s, seed=6)
    expected = np.stack([sampled(x, rows, columns) for x in pixels(images).astype(float)])
    assert np.abs(triggered(parse(text), images, 6) - expected).max() <= 0.52
    # and s is the number of pixels (of half an image side per unit) that the field moves on average
    moved = np.abs(rows - np.linspace(-1, 1, shape[1])[:, None]).mean() * shape[1] / 2
    assert 0.1 * s < moved < 0.6 * s


def test_wanet_covers_are_warped_and_jittered_by_up_to_a_pixel_s_half() -> None:
    """Noise mode: the warp plus U(-1, 1) / H at each pixel; another jitter for each cover, the label kept."""
    images, attack = made_images(100, (1, 16, 16)), WaNet()
    recipe = PoisonSpec(attack, 0.1, 0)
    covers, rng = images.take(torch.arange(3)), torch.Generator().manual_seed(0)
    jitter = attack.draw_per_cover(covers, images, 4, rng)
    assert jitter.abs().max() <= 1 / 16
    assert jitter.abs().max() > 0.99 / 16
    assert jitter.std() == pytest.approx(1 / 16 / math.sqrt(3), rel=0.05)
    assert not torch.equal(jitter[0], jitter[1])
    grid = recipe.trigger((1, 16, 16), 4)
    made = attack.stamp_cover(covers.x.float(), Trigger(grid, covers.y, covers.y, jitter))
    for x, out, moved in zip(pixels(covers).astype(float), made.numpy(), (grid + jitter).numpy(), strict=True):
        expected = sampled(x, moved[:, :, 1].clip(-1, 1), moved[:, :, 0].clip(-1, 1))
        assert np.abs(out - expected).max() <= 0.01
    poisoned = recipe.poison(images, 4)
    cover = poisoned.roles == COVER
    assert int(cover.sum()) == 20
    assert torch.equal(poisoned.images.y[cover], images.y[cover])
    plain = recipe.triggered(images, 4).x
    assert (poisoned.images.x[cover] != plain[cover]).flatten(1).any(1).all()
    assert torch.equal(poisoned.images.x[poisoned.roles == POISON], plain[poisoned.roles == POISON])


# --- BATT -------------------------------------------------------------------------------------------------------------


def turned(x: Floats, degrees: float) -> Floats:
    """`x` (C, H, W) counterclockwise about its centre, black outside."""
    a = math.radians(degrees)
    # for a pixel (row, column) of the output, its place in the input
    matrix = np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])
    centre = (np.array(x.shape[1:]) - 1) / 2
    offset = centre - matrix @ centre
    return np.stack([affine_transform(c, matrix, offset, order=1, mode="grid-constant") for c in x])


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (1, 9, 16)], ids=str)
@pytest.mark.parametrize(("text", "degrees"), [("batt", 16), ("batt:degrees=-30", -30), ("batt:degrees=90", 90)])
def test_batt_turns_the_image(text: str, degrees: float, shape: Shape) -> None:
    images = made_images(2, shape)
    made = triggered(parse(text), images)
    expected = np.stack([turned(x, degrees) for x in pixels(images).astype(float)])
    assert np.abs(made - expected).max() <= 0.52
    if shape[1] == shape[2]:
        other = rotate(images.x.float(), degrees, InterpolationMode.BILINEAR)
        assert np.abs(made - other.numpy()).max() <= 0.52


def test_batt_turns_counterclockwise() -> None:
    x = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    x[0, 0, 4, 8] = 200  # at three o'clock; a quarter turn leads it to twelve
    made = triggered(parse("batt:degrees=90"), Images(x, torch.zeros(1).long()))
    assert np.argwhere(made[0, 0] > 100).tolist() == [[0, 4]]


def test_batt_covers_are_turned_by_up_to_ten_degrees_either_way() -> None:
    images, attack = made_images(300, (1, 12, 12)), parse("batt")
    poisoned = PoisonSpec(attack, 0.1, 0).poison(images, 4)
    angles = attack.draw_per_cover(images, images, 4, torch.Generator().manual_seed(0))
    assert -10 <= angles.min() < -9.5
    assert 9.5 < angles.max() <= 10
    assert angles.mean() == pytest.approx(0, abs=5 * 5.8 / math.sqrt(300))
    covers = (poisoned.roles == COVER).nonzero().squeeze(1)
    assert len(covers) == 30
    found = [nearest_angle(pixels(images)[n], poisoned.images.x[n].numpy()) for n in covers[:8]]
    assert max(map(abs, found)) <= 10
    assert len(set(found)) > 4


def nearest_angle(before: NDArray[np.int64], after: NDArray[np.uint8]) -> float:
    """The turn, in half degrees, that explains `after` best."""
    tried = [step / 2 for step in range(-40, 41)]
    off = [np.abs(turned(before.astype(float), angle) - after).mean() for angle in tried]
    assert min(off) < 4
    return tried[int(np.argmin(off))]


# --- BPP --------------------------------------------------------------------------------------------------------------


def level(value: float, m: int) -> float:
    """The nearest of m levels from 0 to 255, in 0-255."""
    step = math.floor(value / 255 * (m - 1) + 0.5)
    return min(max(step, 0), m - 1) / (m - 1) * 255


def floyd_steinberg(x: Floats, m: int) -> Floats:
    """`x` (H, W), row by row: each pixel's error to the right, below left, below and below right."""
    field = x.copy()
    height, width = field.shape
    for row in range(height):
        for column in range(width):
            new = level(field[row, column], m)
            error, field[row, column] = field[row, column] - new, new
            for down, right, share in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                if row + down < height and 0 <= column + right < width:
                    field[row + down, column + right] += error * share / 16
    return field


@pytest.mark.parametrize(("text", "m"), [("", 8), (",levels=2", 2), (",levels=3", 3)])
def test_bpp_keeps_so_many_levels(text: str, m: int) -> None:
    x = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    made = triggered(parse(f"bpp:dithering=false{text}"), Images(x, torch.zeros(1).long()))
    expected = np.array([level(value, m) for value in range(256)]).reshape(1, 1, 16, 16)
    assert np.abs(made - expected).max() <= ROUNDED
    assert len(np.unique(made)) == m


@pytest.mark.parametrize("levels", [2, 5, 8, 60, 255])
def test_bpp_without_dithering_is_idempotent(levels: int) -> None:
    once = PoisonSpec(parse(f"bpp:dithering=false,levels={levels}"), 0.0, 0).triggered(harsh_images((3, 32, 32)), 10)
    twice = PoisonSpec(parse(f"bpp:dithering=false,levels={levels}"), 0.0, 0).triggered(once, 10)
    assert torch.equal(once.x, twice.x)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (1, 5, 9)], ids=str)
@pytest.mark.parametrize("levels", [2, 8])
def test_bpp_dithers_as_floyd_and_steinberg_do(shape: Shape, levels: int) -> None:
    images = harsh_images(shape)
    clean = pixels(images).astype(float)
    expected = np.stack([np.stack([floyd_steinberg(channel, levels) for channel in x]) for x in clean])
    off = np.abs(triggered(parse(f"bpp:toolbox,levels={levels}"), images) - expected)
    # float32 against float64: a value that lies between two levels may fall the other way, and drag others along
    assert (off > ROUNDED).mean() < 0.01
    flat = Images(torch.full((1, 1, 16, 16), 100, dtype=torch.uint8), torch.zeros(1).long())
    made = triggered(parse(f"bpp:toolbox,levels={levels}"), flat)
    assert made.mean() == pytest.approx(100, abs=4)  # what dithering is for
    assert len(np.unique(made)) == 2


@pytest.mark.parametrize("text", ["bpp", "bpp:toolbox"])
def test_bpp_covers_carry_the_change_of_another_image(text: str) -> None:
    """Each cover is x plus what the trigger makes of some other training image, clipped and rounded."""
    images = made_images(40, (1, 8, 8))
    recipe = PoisonSpec(parse(text), 0.1, 0)
    poisoned, changed = recipe.poison(images, 4), recipe.triggered(images, 4).x
    changes = changed.int() - images.x.int()
    covers = (poisoned.roles == COVER).nonzero().squeeze(1)
    assert len(covers) == 4
    for n in covers:
        candidates = (images.x[n].int() + changes).clamp(0, 255)
        off = (candidates - poisoned.images.x[n].int()).abs().flatten(1).amax(1)
        assert off.min() <= 1
        assert int(off.argmin()) != int(n)
