"""Models by name. A new one is a file here and a line in MODELS; docs/adding.md shows it."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from raybd.errors import InputError
from raybd.models.base import Builder, Classifier, Shape, trial
from raybd.models.foreign import own_function, own_model, settings_of, torchvision_model
from raybd.models.resnet import preact_resnet18, resnet18
from raybd.models.small_cnn import small_cnn
from raybd.plugins import unknown

MODELS: dict[str, Builder] = {
    "small_cnn": small_cnn,
    "resnet18": resnet18,
    "preact_resnet18": preact_resnet18,
}
FORMS = ("torchvision:NAME", "module:function")

__all__ = ["MODELS", "Classifier", "build_model", "check_model"]


def build_model(
    name: str,
    shape: Shape,
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    width: float = 1.0,
    depth: int | None = None,
) -> nn.Module:
    """An untrained network for images (N, C, H, W) in [0, 1]; its weights come from torch's global generator.

    `mean` and `std` of each channel are what raybd's networks and torchvision's normalise with. `module:function`
    runs the user's own code: function(shape, classes), with width and depth by keyword if it has them.

    Raises:
        InputError: the name or a setting is unknown, or the network cannot take such images.
    """
    settings = _settings(name, width, depth)
    if name in MODELS:
        return MODELS[name](shape, classes, mean, std, **settings)
    if name.startswith("torchvision:"):
        model: nn.Module = torchvision_model(name, shape, classes, mean, std)
    else:
        model = own_model(name, shape, classes, **settings)
        trial(name, model, shape, classes)
    return model


@cache
def check_model(name: str, shape: Shape, classes: int, width: float, depth: int | None) -> list[str]:
    """Every reason why `build_model` would refuse; costs no weights and no computation."""
    channel = [0.5] * shape[0]
    try:
        if ":" in name and not name.startswith("torchvision:"):
            build_model(name, shape, classes, channel, channel, width=width, depth=depth)
            return []
        with torch.device("meta"):
            model = build_model(name, shape, classes, channel, channel, width=width, depth=depth)
            trial(name, model, shape, classes)
    except InputError as error:
        return error.problems
    return []


def _settings(name: str, width: float, depth: int | None) -> dict[str, Any]:
    """The settings that differ from the architecture's own, if it has them."""
    if ":" not in name and (problems := unknown("model", [name], [*MODELS, *FORMS])):
        raise InputError(problems)
    own = () if name.startswith("torchvision:") else settings_of(MODELS.get(name) or own_function(name))
    wanted = {"width": width} if width != 1.0 else {}
    wanted |= {} if depth is None else {"depth": depth}
    if surplus := [
        f"model {name} has no {setting} (it has: {', '.join(own) or 'none'})"
        for setting in wanted
        if setting not in own
    ]:
        raise InputError(surplus)
    return wanted
