"""Presets called backdoorbench against that code's arithmetic, pixel by pixel; where it wraps, how far it is off."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raybd.attacks import parse
from raybd.attacks.poisoning import PoisonSpec
from raybd.attacks.verification import verify_poisoning
from raybd.types import Images
from tests import backdoorbench
from tests.backdoorbench import Bytes
from tests.conftest import made_images
from tests.test_attacks_patches import harsh_images

COLOUR = (3, 32, 32)


def made(text: str, images: Images, seed: int = 0) -> Bytes:
    """(N, H, W, C): all of `images` with the trigger of the attack written as `text`."""
    return PoisonSpec(parse(text), 0.0, seed).triggered(images, 10).x.permute(0, 2, 3, 1).numpy()


def clean(images: Images) -> Bytes:
    return images.x.permute(0, 2, 3, 1).numpy()


def every_level(shape: tuple[int, int, int] = COLOUR) -> Images:
    """Each of the 256 levels, over a whole image."""
    x = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, *shape).contiguous()
    return Images(x, torch.zeros(256).long())


def test_badnets() -> None:
    mask = np.zeros((32, 32, 3), np.uint8)
    mask[29:, 29:] = 255
    images = harsh_images(COLOUR)
    expected = [backdoorbench.badnets(x, mask) for x in clean(images)]
    assert np.array_equal(made("badnets:backdoorbench", images), np.stack(expected))


@pytest.mark.parametrize("alpha", [0.2, 0.1, 0.15])
def test_blended_cuts_what_lies_between_two_levels(alpha: float) -> None:
    images, text = every_level(), f"blended:backdoorbench,alpha={alpha}"
    picture = PoisonSpec(parse(text), 0.0, 3).trigger(COLOUR, 10).permute(1, 2, 0).numpy()
    expected = np.stack([backdoorbench.blended(x, picture, alpha) for x in clean(images)])
    assert np.array_equal(made(text, images, 3), expected)
    rounded = made(f"blended:alpha={alpha}", images, 3).astype(int)
    assert set(np.unique(rounded - expected)) == {0, 1}  # the default is up to a level brighter


def test_blended_with_a_picture_resizes_it_as_torchvision_does(tmp_path: Path) -> None:
    from torchvision.transforms import Compose, Resize, ToTensor

    smooth = np.add.outer(np.arange(61) * 2, np.arange(90)).astype(np.uint8)
    Image.fromarray(np.stack([smooth, 255 - smooth, smooth // 2], 2)).save(tmp_path / "mine.png")
    with Image.open(tmp_path / "mine.png") as opened:
        picture = Compose([Resize((32, 32)), ToTensor()])(opened.convert("RGB")).permute(1, 2, 0).numpy() * 255
    images = harsh_images(COLOUR)
    expected = [backdoorbench.blended(x, picture, 0.2) for x in clean(images)]
    text = f"blended:backdoorbench,image={tmp_path / 'mine.png'}"
    assert np.array_equal(made(text, images), np.stack(expected))


@pytest.mark.parametrize(("delta", "f"), [(40, 6), (30, 6), (20, 4)])
def test_sig_cuts_what_lies_between_two_levels(delta: int, f: int) -> None:
    """At a zero of the sine, which a computer makes -5e-15, a whole level is cut: it is so there as well."""
    images = every_level()
    expected = np.stack([backdoorbench.sig(x, delta, f) for x in clean(images)])
    found = made(f"sig:backdoorbench,delta={delta},frequency={f}", images)
    assert np.array_equal(found, expected)
    assert (found[100] == 99).any()
    assert (found[100] < 100).mean() > (found[100] > 100).mean()


def test_bpp_cuts_the_levels() -> None:
    images = every_level()
    expected = np.stack([backdoorbench.bpp(x, 8) for x in clean(images)])
    assert np.array_equal(made("bpp:backdoorbench", images), expected)
    assert np.unique(expected).tolist() == [0, 36, 72, 109, 145, 182, 218, 255]


def test_wanet_cuts_what_lies_between_two_levels() -> None:
    """Of an image warped by the same field: floor for floor, but where float32 puts a value below its level."""
    images = made_images(6, COLOUR)
    field = PoisonSpec(parse("wanet:backdoorbench"), 0.0, 2).trigger(COLOUR, 10)
    x = images.x.double() / 255
    warped = torch.nn.functional.grid_sample(x, field.double().expand(6, -1, -1, -1), align_corners=True)
    expected = backdoorbench.cut((warped * 255).permute(0, 2, 3, 1).numpy())
    found = made("wanet:backdoorbench", images, 2)
    assert (found != expected).mean() < 1e-3
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("side", [32, 64])
def test_ctrl_wrapped(side: int) -> None:
    images = harsh_images((3, side, side), 4)
    expected = np.stack([backdoorbench.ctrl(x) for x in clean(images)])
    found = made("ctrl:backdoorbench_wrapped", images)
    off = (found.astype(int) - expected + 128) % 256 - 128  # 255 and 0 are neighbours here
    assert (off != 0).mean() < 1e-3  # float64 in another order
    assert np.abs(off).max() <= 1


def test_ctrl_wraps_where_the_formula_clips() -> None:
    images = every_level()
    formula = made("ctrl:backdoorbench", images).astype(int)
    off = np.abs(made("ctrl:backdoorbench_wrapped", images) - formula)
    assert (off[128] <= 1).all()  # nothing is near the ends
    assert off[255].max() > 200
    assert off[0].max() > 200


def test_ctrl_wrapped_passes_the_gate_and_keeps_its_key_apart() -> None:
    images, attack = made_images(60, COLOUR), parse("ctrl:backdoorbench_wrapped")
    recipe = PoisonSpec(attack, 0.1, 0)
    assert verify_poisoning(recipe, images, recipe.poison(images, 4), 4)["poison"] == 6
    assert attack != parse("ctrl")
    assert parse("ctrl:backdoorbench") == parse("ctrl")


def test_ftrojan_is_the_formula_to_a_few_levels() -> None:
    """BackdoorBench goes by way of YCrCb in bytes, which costs up to 4 levels; the preset is the formula."""
    images = made_images(20, COLOUR)
    images.x.clamp_(40, 215)  # apart from the ends, where a cast of chroma may wrap
    expected = np.stack([backdoorbench.ftrojan(x) for x in clean(images)]).astype(int)
    off = np.abs(made("ftrojan:backdoorbench", images) - expected)
    assert 1 <= off.max() <= 4
    assert off.mean() < 1.2


def test_opencv_s_fixed_point_is_its_formula_to_rounding() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    luma = image @ np.array([0.299, 0.587, 0.114])
    exact = [luma, (image[:, :, 0] - luma) * 0.713 + 128, (image[:, :, 2] - luma) * 0.564 + 128]
    assert np.abs(backdoorbench.ycrcb(image) - np.stack(exact, 2).clip(0, 255)).max() < 1.1
    assert np.abs(backdoorbench.rgb(backdoorbench.ycrcb(image)).astype(int) - image).max() <= 3
