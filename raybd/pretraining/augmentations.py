"""Random views of images, the data augmentation of contrastive learning, for a whole batch at a time."""

import math
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from raybd.errors import InputError
from raybd.pretraining import ops
from raybd.types import coerce_floats
from raybd.utils.constraints import NonNegative, Share, violations

RATIO = (3 / 4, 4 / 3)  # width to height of a random crop
TRIES = 10  # boxes that are sampled for a crop until one lies inside the image


@dataclass(frozen=True, kw_only=True)
class Views:
    """The ranges from which the parameters of a random view are sampled. By default every part is off.

    Raises:
        InputError: with every field that is out of its range.
    """

    crop: Annotated[tuple[float, float], Interval(gt=0, le=1)] = (
        1.0,
        1.0,
    )  # share of the area, then resized
    flip: Share = 0.0  # probability of a mirror image
    rotate: NonNegative = 0.0  # degrees to either side
    translate: Share = 0.0  # of the height and the width, to either side
    scale: Annotated[tuple[float, float], Interval(gt=0, lt=math.inf)] = (1.0, 1.0)
    shear: Annotated[float, Interval(ge=0, lt=90)] = 0.0  # degrees to either side, along the rows
    jitter: Share = 1.0  # probability that an image gets the next four
    brightness: NonNegative = 0.0  # factor in 1 - b to 1 + b
    contrast: NonNegative = 0.0
    saturation: NonNegative = 0.0  # of three channels only
    hue: Annotated[float, Interval(ge=0, le=0.5)] = 0.0  # turns to either side; of three channels only
    grey: Share = 0.0  # probability of a greyscale image
    noise: NonNegative = 0.0  # largest standard deviation; each image samples its own below it
    erase: Annotated[int, Ge(0)] = 0  # pixels: side of a black square
    erase_chance: Share = 0.5

    def __post_init__(self) -> None:
        coerce_floats(self)
        ranges = {"crop": self.crop, "scale": self.scale}
        falling = [
            f"{name} must be (low, high), got {low:g}, {high:g}" for name, (low, high) in ranges.items() if low > high
        ]
        if problems := violations(self) + falling:
            raise InputError(problems)


PHOTO = Views(crop=(0.08, 1.0), jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey=0.2)
GREY = Views(rotate=15, translate=0.12, scale=(0.8, 1.2), shear=15, brightness=0.4, noise=0.1, erase_chance=0.5)


def default_views(shape: tuple[int, ...]) -> Views:
    """Views for images of `shape` (C, H, W): SimCLR's for CIFAR (arXiv:2002.05709, B.9) with three channels, else
    affine maps, brightness, noise and a black square of about a third of the side."""
    return PHOTO if shape[0] == 3 else replace(GREY, erase=math.ceil(min(shape[1:]) / 3))


@dataclass(frozen=True)
class ViewParameters:
    """The sampled parameters of one random view of each of N images; None where a part is off."""

    box: Tensor | None = None  # (N, 4): top, left, height, width in whole pixels
    mirrored: Tensor | None = None  # (N,) bool
    affine: Tensor | None = None  # (N, 5): angle and shear in degrees, scale, pixels right and down
    colour: Tensor | None = None  # (N, 4): factors of brightness, contrast and saturation, and turns of hue
    grey: Tensor | None = None  # (N,) bool
    noise: Tensor | None = None  # (N, C, H, W)
    hole: Tensor | None = None  # (N, 2): top and left in pixels; beyond the image where nothing is erased


def random_views(x: Tensor, views: Views, rng: torch.Generator) -> Tensor:
    """One random view of each image of `x` (N, C, H, W), uint8 or float in [0, 1]: (N, C, H, W) float32 in [0, 1].

    `rng` is on the device of `x`.
    """
    x = x.float().div_(255) if x.dtype == torch.uint8 else x
    return transform(x, sample_parameters(x.shape, views, rng), views.erase)


def transform(x: Tensor, parameters: ViewParameters, erase: int = 0) -> Tensor:
    """The views of `x` (N, C, H, W) in [0, 1] with these `parameters`; `erase` is the side of the holes in pixels."""
    if parameters.box is not None:
        x = ops.crop_resize(x, parameters.box)
    if parameters.affine is not None:
        x = ops.affine(x, parameters.affine)
    if parameters.mirrored is not None:
        x = torch.where(parameters.mirrored[:, None, None, None], x.flip(3), x)
    if parameters.colour is not None:
        x = ops.colour_jitter(x, parameters.colour)
    if parameters.grey is not None:
        x = torch.where(parameters.grey[:, None, None, None], ops.greyscale(x), x)
    if parameters.noise is not None:
        x = (x + parameters.noise).clamp_(0, 1)
    if parameters.hole is not None:
        x = ops.erase(x, parameters.hole, erase)
    return x


def sample_parameters(shape: tuple[int, ...], views: Views, rng: torch.Generator) -> ViewParameters:
    """Parameters of `views` for images of `shape` (N, C, H, W); a part that is off takes nothing from `rng`."""
    n, channels, height, width = shape
    affine = views.rotate or views.translate or views.shear or views.scale != (1, 1)
    colour = views.brightness or views.contrast or (channels == 3 and (views.saturation or views.hue))
    return ViewParameters(
        box=_boxes(n, height, width, views.crop, rng) if views.crop != (1, 1) else None,
        mirrored=_uniform(rng, n) < views.flip if views.flip else None,
        affine=_affine(n, height, width, views, rng) if affine else None,
        colour=_colour(n, channels, views, rng) if colour else None,
        grey=_uniform(rng, n) < views.grey if views.grey and channels == 3 else None,
        noise=_noise(shape, views.noise, rng) if views.noise else None,
        hole=_holes(n, height, width, views, rng) if views.erase else None,
    )


def _uniform(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=rng, device=rng.device)


def _between(u: Tensor, low: float, high: float) -> Tensor:
    return u * (high - low) + low


def _boxes(n: int, height: int, width: int, keep: tuple[float, float], rng: torch.Generator) -> Tensor:
    """(n, 4) boxes distributed as those of torchvision's RandomResizedCrop: a share of the area, a log-uniform ratio.

    Of TRIES boxes the first that fits is taken; where none does, the largest in the middle with a ratio in RATIO.
    """
    area = _between(_uniform(rng, TRIES, n), *keep) * (height * width)
    ratio = _between(_uniform(rng, TRIES, n), math.log(RATIO[0]), math.log(RATIO[1])).exp()
    tall, wide = (area / ratio).sqrt().round(), (area * ratio).sqrt().round()
    fits = (tall > 0) & (tall <= height) & (wide > 0) & (wide <= width)
    first = fits.float().argmax(0, keepdim=True)
    found = fits.any(0)
    tallest = float(min(height, round(width / RATIO[0])))
    widest = float(min(width, round(height * RATIO[1])))
    tall = torch.where(found, tall.gather(0, first)[0], tallest)
    wide = torch.where(found, wide.gather(0, first)[0], widest)
    place = _uniform(rng, 2, n)
    place = torch.where(found, place, 0.5)
    top, left = (place[0] * (height - tall + 1)).floor(), (place[1] * (width - wide + 1)).floor()
    return torch.stack([top, left, tall, wide], 1)


def _affine(n: int, height: int, width: int, views: Views, rng: torch.Generator) -> Tensor:
    u = _uniform(rng, 5, n)
    signed = 2 * u - 1
    return torch.stack(
        [
            signed[0] * views.rotate,
            signed[1] * views.shear,
            _between(u[2], *views.scale),
            signed[3] * views.translate * width,
            signed[4] * views.translate * height,
        ],
        1,
    )


def _colour(n: int, channels: int, views: Views, rng: torch.Generator) -> Tensor:
    """(n, 4) factors and turns of hue: 1 and 0, which change nothing, for the images that get no jitter."""
    signed = 2 * _uniform(rng, n, 4) - 1
    coloured = channels == 3
    amounts = [views.brightness, views.contrast, views.saturation * coloured, views.hue * coloured]
    moved = signed * torch.tensor(amounts, device=rng.device)
    moved = torch.where(_uniform(rng, n, 1) < views.jitter, moved, 0.0)
    factors = (1 + moved[:, :3]).clamp_(min=0)
    return torch.cat([factors, moved[:, 3:]], 1)


def _noise(shape: tuple[int, ...], largest: float, rng: torch.Generator) -> Tensor:
    normal = torch.randn(*shape, generator=rng, device=rng.device)
    return normal.mul_(_uniform(rng, shape[0], 1, 1, 1) * largest)


def _holes(n: int, height: int, width: int, views: Views, rng: torch.Generator) -> Tensor:
    u = _uniform(rng, 3, n)
    side = views.erase
    corner = torch.stack([u[0] * (height - side + 1), u[1] * (width - side + 1)], 1).floor()
    beyond = float(max(height, width))
    return torch.where((u[2] < views.erase_chance)[:, None], corner, beyond)
