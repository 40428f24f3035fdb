"""Random views: each operation against torchvision's, the batch against single images, and what is never done."""

from dataclasses import replace

import pytest
import torch
import torchvision.transforms.functional as tv
from scipy.stats import ks_2samp
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop

from raybd.errors import InputError
from raybd.pretraining import Views, default_views, ops, random_views
from raybd.pretraining.augmentations import RATIO, ViewParameters, sample_parameters, transform

EVERYTHING = Views(
    crop=(0.1, 0.9), flip=0.5, rotate=40, translate=0.3, scale=(0.5, 2), shear=30, jitter=0.7, brightness=0.9,
    contrast=0.9, saturation=0.9, hue=0.5, grey=0.3, noise=0.5, erase=3,
)  # fmt: skip
SHAPES = [(3, 12, 9), (1, 8, 8)]


def pictures(n: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", SHAPES)
def test_crops_are_torchvision_s(shape: tuple[int, int, int]) -> None:
    boxes = torch.tensor([[0, 0, 1, 1], [2, 3, 5, 4], [0, 0, *shape[1:]], [1, 2, 7, 6], [4, 0, 3, 8]])
    x = pictures(len(boxes), shape)
    views = ops.crop_resize(x, boxes.float())
    for one, box, view in zip(x, boxes.tolist(), views, strict=True):
        expected = tv.resized_crop(one, *box, size=list(shape[1:]), antialias=False)
        torch.testing.assert_close(view, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "settings", [(0, 0, 1, 0, 0), (30, 0, 1, 0, 0), (0, 20, 1, 0, 0), (0, 0, 0.7, 2, -1), (-25, -15, 1.3, -2, 3)]
)
def test_affine_maps_are_torchvision_s(shape: tuple[int, int, int], settings: tuple[float, ...]) -> None:
    x = pictures(1, shape)
    angle, shear, scale, right, down = settings
    expected = tv.affine(x, angle, [int(right), int(down)], scale, [shear, 0.0], InterpolationMode.BILINEAR)
    torch.testing.assert_close(ops.affine(x, torch.tensor([settings]).float()), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
def test_brightness_and_contrast_are_torchvision_s(shape: tuple[int, int, int], factor: float) -> None:
    x = pictures(3, shape)
    for place, adjust in enumerate((tv.adjust_brightness, tv.adjust_contrast)):
        settings = torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(3, 1)
        settings[:, place] = factor
        torch.testing.assert_close(ops.colour_jitter(x, settings), adjust(x, factor), rtol=0, atol=2e-6)


@pytest.mark.parametrize("amount", [0.0, 0.1, 0.35, 0.5])
def test_saturation_hue_and_grey_are_torchvision_s(amount: float) -> None:
    x = pictures(3, (3, 6, 7))
    x[0, :, 0], x[1, :, 1] = 0.5, 0.0  # greys have no hue
    for place, adjust, value in ((2, tv.adjust_saturation, 4 * amount), (3, tv.adjust_hue, amount)):
        settings = torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(3, 1)
        settings[:, place] = value
        torch.testing.assert_close(ops.colour_jitter(x, settings), adjust(x, value), rtol=0, atol=5e-6)
    torch.testing.assert_close(ops.greyscale(x), tv.rgb_to_grayscale(x), rtol=0, atol=1e-6)


def test_holes_are_torchvision_s_and_beyond_the_image_there_is_none() -> None:
    x = pictures(3, (3, 8, 7))
    views = ops.erase(x, torch.tensor([[2.0, 4.0], [0.0, 0.0], [8.0, 8.0]]), 3)
    assert torch.equal(views[0], tv.erase(x[0], 2, 4, 3, 3, torch.tensor(0.0)))
    assert torch.equal(views[1], tv.erase(x[1], 0, 0, 3, 3, torch.tensor(0.0)))
    assert torch.equal(views[2], x[2])


def at(parameters: ViewParameters, index: Tensor) -> ViewParameters:
    """The parameters of the images at `index`."""
    return ViewParameters(**{name: None if v is None else v[index] for name, v in vars(parameters).items()})


@pytest.mark.parametrize("shape", SHAPES)
def test_a_batch_is_its_images_one_by_one(shape: tuple[int, int, int]) -> None:
    x = pictures(20, shape)
    parameters = sample_parameters(x.shape, EVERYTHING, rng())
    whole = transform(x, parameters, EVERYTHING.erase)
    for i in range(len(x)):
        index = torch.tensor([i])
        torch.testing.assert_close(
            whole[i : i + 1], transform(x[index], at(parameters, index), EVERYTHING.erase), rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("shape", SHAPES)
def test_views_are_images_of_the_same_shape(shape: tuple[int, int, int]) -> None:
    x = (pictures(300, shape) * 255).round().to(torch.uint8)
    view = random_views(x, EVERYTHING, rng())
    assert (view.shape, view.dtype) == (x.shape, torch.float32)
    assert 0 <= view.min() < 0.01
    assert 0.99 < view.max() <= 1
    assert torch.equal(view, random_views(x, EVERYTHING, rng()))
    assert not torch.equal(view, random_views(x, EVERYTHING, rng(1)))
    assert torch.equal(view, random_views(x.float() / 255, EVERYTHING, rng()))


def test_what_is_off_does_nothing_and_samples_nothing() -> None:
    x, source = pictures(5, (3, 8, 8)), rng()
    before = source.get_state()
    assert torch.equal(random_views(x, Views(), source), x)
    assert torch.equal(source.get_state(), before)


@pytest.mark.parametrize("shape", SHAPES)
def test_images_are_mirrored_only_where_that_is_asked_for(shape: tuple[int, int, int]) -> None:
    x = pictures(400, shape)
    assert sample_parameters(x.shape, default_views(shape), rng()).mirrored is None
    assert sample_parameters(x.shape, replace(default_views(shape), flip=0.5), rng()).mirrored is not None
    view = random_views(x, Views(flip=0.25), rng())
    turned = (view == x.flip(3)).flatten(1).all(1)
    assert torch.equal(view[~turned], x[~turned])
    assert abs(turned.float().mean() - 0.25) < 4 * (0.25 * 0.75 / 400) ** 0.5


@pytest.mark.parametrize(
    ("height", "width", "keep"), [(32, 32, (0.08, 1.0)), (12, 40, (0.5, 1.0)), (64, 64, (0.2, 0.3))]
)
def test_boxes_follow_the_law_of_torchvision(height: int, width: int, keep: tuple[float, float]) -> None:
    n, image = 2000, torch.zeros(1, height, width)
    box = sample_parameters((n, 1, height, width), Views(crop=keep), rng()).box
    assert box is not None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torch.tensor([RandomResizedCrop.get_params(image, list(keep), list(RATIO)) for _ in range(n)])
    for column in range(4):
        assert ks_2samp(box[:, column].numpy(), theirs[:, column].numpy()).pvalue > 1e-3
    for of in (torch.mul, torch.div):
        ours, expected = (of(boxes[:, 2], boxes[:, 3]) for boxes in (box, theirs.float()))
        assert ks_2samp(ours.numpy(), expected.numpy()).pvalue > 1e-3
    assert (box[:, :2] >= 0).all()
    for start, size in ((0, 2), (1, 3)):  # the last row and column are reached where theirs are
        assert (box[:, start] + box[:, size]).max() == (theirs[:, start] + theirs[:, size]).max()


def test_a_jitter_passes_over_its_share_of_the_images() -> None:
    x = pictures(1000, (3, 4, 4))
    view = random_views(x, Views(jitter=0.8, brightness=0.5, hue=0.2), rng())
    same = (view - x).abs().flatten(1).amax(1) < 1e-6
    assert abs(same.float().mean() - 0.2) < 4 * (0.2 * 0.8 / 1000) ** 0.5


def test_grey_images_are_never_turned_or_cropped_by_default() -> None:
    views = default_views((1, 8, 8))
    assert (views.erase, views.flip, views.crop) == (3, 0, (1, 1))
    parameters = sample_parameters((6, 1, 8, 8), views, rng())
    assert parameters.box is None
    assert parameters.grey is None
    assert parameters.affine is not None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"flip": 1.5}, "flip"),
        ({"noise": -0.1}, "noise"),
        ({"crop": (0.0, 1.0)}, "crop"),
        ({"crop": (0.5, 1.5)}, "crop"),
        ({"scale": (2.0, 1.0)}, "scale"),
        ({"hue": 0.6}, "hue"),
        ({"shear": 90}, "shear"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Views(**wrong)  # type: ignore[arg-type]


def test_every_problem_of_views_is_said_at_once() -> None:
    with pytest.raises(InputError) as error:
        replace(Views(), flip=2, hue=3, noise=-1)
    assert len(error.value.problems) == 3
