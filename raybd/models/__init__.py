"""The table of models: a new one is one file and one line in `MODELS`."""

import math
from collections.abc import Sequence
from functools import cache
from inspect import Parameter, signature
from typing import Any

import torch
from torch import nn

from raybd.errors import InputError
from raybd.models.base import Builder, Classifier, Shape, require
from raybd.models.float32_convolution import keep_float32_input
from raybd.models.resnet import preact_resnet18, resnet18
from raybd.models.small_cnn import small_cnn
from raybd.models.torchvision_model import PREFIX, torchvision_builder
from raybd.models.user_function import user_builder
from raybd.plugins import unknown

__all__ = ["MODELS", "Builder", "Classifier", "build_model", "check_model"]

SETTINGS = ("width", "depth", "noise")
MODELS: dict[str, Builder] = {
    "small_cnn": small_cnn,
    "resnet18": resnet18,
    "preact_resnet18": preact_resnet18,
}


def build_model(
    name: str,
    shape: Shape,
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    width: float = 1.0,
    depth: int | None = None,
    noise: float = 0.0,
) -> nn.Module:
    """The untrained model `name` for images of `shape` (C, H, W) in [0, 1]; seed torch's generator before.

    `name` is of `MODELS`, or `torchvision:NAME`, or `module:function`, which runs the user's own code.
    `width` multiplies the channels; `depth` None is the architecture's own; `noise` is the standard deviation of
    the Gaussian noise at the sites of raybd/models/noise.py, 0 being the ordinary network.

    Raises:
        InputError: the name is unknown, or the model has not this setting or cannot take these images.
    """
    builder = _find(name)
    return keep_float32_input(builder(shape, classes, mean, std, **_settings(name, builder, width, depth, noise)))


def check_model(
    name: str, shape: Shape, classes: int, width: float, depth: int | None, noise: float = 0.0
) -> list[str]:
    """Every problem that `build_model` would raise, found without weights; torch's generator is left alone.

    Of the user's own `module:function`, only the import and the settings are checked.
    """
    return list(_problems(name, shape, classes, width, depth, noise))


@cache
def _problems(name: str, shape: Shape, classes: int, width: float, depth: int | None, noise: float) -> tuple[str, ...]:
    ones = [1.0] * shape[0]
    try:
        builder = _find(name)
        settings = _settings(name, builder, width, depth, noise)
        if _is_user_function(name):
            return ()
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            builder(shape, classes, ones, ones, **settings)
    except InputError as error:
        return tuple(error.problems)
    except NotImplementedError:
        return ()  # torchvision's regnets read weights while they are built, which "meta" has not
    return ()


def _find(name: str) -> Builder:
    if name.startswith(PREFIX):
        return torchvision_builder(name.removeprefix(PREFIX))
    if _is_user_function(name):
        return user_builder(name)
    if problems := unknown("model", [name], [*MODELS, f"{PREFIX}NAME", "module:function"]):
        raise InputError(problems)
    return MODELS[name]


def _is_user_function(name: str) -> bool:
    return ":" in name and not name.startswith(PREFIX)


def _settings(name: str, builder: Builder, width: float, depth: int | None, noise: float) -> dict[str, Any]:
    """Those of `width`, `depth` and `noise` that are given; a `width` of 1 too where the builder names it.

    A user's function may have another default.

    Raises:
        InputError: one is given that the builder has not, or the noise is none.
    """
    parameters = signature(builder).parameters
    given: dict[str, Any] = {"width": width} if width != 1.0 or "width" in parameters else {}
    given |= {} if depth is None else {"depth": depth}
    given |= {} if noise == 0 else {"noise": noise}
    takes_any = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values())
    has = [setting for setting in SETTINGS if takes_any or setting in parameters]
    listed = ", ".join(has) or "none"
    require(
        *((key in has, f"model {name} has no setting {key} (it has: {listed})") for key in given),
        (0 <= noise < math.inf, f"noise of {name} must not be negative, and finite, got {noise}"),
    )
    return given
