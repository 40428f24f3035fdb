"""The table of models: a new one is one file and one line in `MODELS`."""

import math
import re
from collections.abc import Sequence
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn

from raybd.errors import InputError
from raybd.models.adapted import as_classifier, feature_problem
from raybd.models.base import Builder, Classifier, Shape, require
from raybd.models.float32_convolution import keep_float32_input
from raybd.models.resnet import preact_resnet18, resnet18
from raybd.models.small_cnn import small_cnn
from raybd.models.torchvision_model import PREFIX, torchvision_builder
from raybd.models.user_function import user_builder
from raybd.plugins import unknown
from raybd.plugins.own import entry_points, target_of
from raybd.utils.cache import content_hash

__all__ = [
    "MODELS",
    "Builder",
    "Classifier",
    "build_model",
    "built_content",
    "feature_problem",
    "is_user_function",
    "sketch_model",
    "user_module",
]

ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # of an object, in how it is printed
SETTINGS = ("width", "depth", "noise")
PRETRAINED = ("weights", "input_size", "patch_size")  # settings of torchvision's networks
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
    weights: str = "",
    input_size: int = 0,
    patch_size: int = 0,
) -> nn.Module:
    """The untrained model `name` for images of `shape` (C, H, W) in [0, 1]; seed torch's generator before.

    `name` is of `MODELS`, or `torchvision:NAME`, or `module:function`, which runs the user's own code; a network of
    the user's own that ends in a linear layer becomes a `Classifier` (`raybd/models/adapted.py`).
    `width` multiplies the channels; `depth` None is the architecture's own; `noise` is the standard deviation of
    the Gaussian noise at the sites of raybd/models/noise.py, 0 being the ordinary network. A network of torchvision
    takes pretrained `weights` (a file, or torchvision's name of them), under a new head, and resizes images to
    `input_size` pixels; `patch_size` pixels become one position of its first map.

    Raises:
        InputError: the name is unknown, or the model has not this setting or cannot take these images.
    """
    builder = _find(name)
    settings = _settings(name, builder, width, depth, noise) | _pretrained(name, weights, input_size, patch_size)
    model = keep_float32_input(builder(shape, classes, mean, std, **settings))
    return _finished(name, builder, model, shape, noise)


def sketch_model(
    name: str,
    shape: Shape,
    classes: int,
    *,
    width: float = 1.0,
    depth: int | None = None,
    noise: float = 0.0,
    weights: str = "",
    input_size: int = 0,
    patch_size: int = 0,
) -> nn.Module | None:
    """The model of `build_model` on the device "meta", whose weights take no memory; the user's own with weights. None
    of one that reads weights while it is built, as torchvision's regnets do.

    Raises:
        InputError: as `build_model`; the weights have no possible size.
    """
    ones = [1.0] * shape[0]
    builder = _find(name)
    settings = _settings(name, builder, width, depth, noise) | _pretrained(name, weights, input_size, patch_size)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu" if is_user_function(name) else "meta"):
            return _finished(name, builder, builder(shape, classes, ones, ones, **settings), shape, noise)
    except NotImplementedError:
        return None
    except InputError:
        raise
    except Exception as error:  # a size beyond what PyTorch counts
        raise InputError(f"model {name} cannot be built: {str(error).splitlines()[0]}") from error


def built_content(
    name: str, shape: Shape, classes: int, *, width: float = 1.0, depth: int | None = None, noise: float = 0.0
) -> str:
    """16 hex digits of what the model is when it is built, but for what is drawn at random: its layers, and the weights
    and buffers that two builds from different seeds share, such as weights that are read from a file.
    """
    builder = _find(name)
    settings = _settings(name, builder, width, depth, noise)
    states, text = [], ""
    with torch.random.fork_rng(devices=[]):
        for seed in (0, 1):
            torch.manual_seed(seed)
            model = builder(shape, classes, [1.0] * shape[0], [1.0] * shape[0], **settings)
            states.append({key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)})
            text = ADDRESS.sub("", repr(model))
    first, second = states
    return content_hash(text, {key: value for key, value in first.items() if _same(value, second.get(key))})


def _same(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


def is_user_function(name: str) -> bool:
    """Whether `name` is the user's own module:function, or that of an installed package's entry point."""
    return user_module(name) is not None


def user_module(name: str) -> str | None:
    """The module of the function that a name which is not of raybd stands for; None where there is none."""
    if name in MODELS or name.startswith(PREFIX):
        return None
    target = target_of("model", name)
    return target and target.partition(":")[0]


def _find(name: str) -> Builder:
    if name.startswith(PREFIX):
        return torchvision_builder(name.removeprefix(PREFIX))
    if is_user_function(name):
        return user_builder(name)
    listed = [*MODELS, *entry_points("model"), f"{PREFIX}NAME", "module:function"] if name not in MODELS else MODELS
    if problems := unknown("model", [name], listed):
        raise InputError(problems)
    return MODELS[name]


def _has(builder: Builder) -> list[str]:
    parameters = signature(builder).parameters
    takes_any = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values())
    return [setting for setting in SETTINGS if takes_any or setting in parameters]


def _adds_noise(name: str, builder: Builder) -> bool:
    """Whether noise is added to the features of a user's network, which has none of its own."""
    return is_user_function(name) and "noise" not in _has(builder)


def _finished(name: str, builder: Builder, model: nn.Module, shape: Shape, noise: float) -> nn.Module:
    """`model`; one of the user's own as a `Classifier` if it ends in a linear layer.

    Raises:
        InputError: noise is asked for that nothing would add.
    """
    added = noise if _adds_noise(name, builder) else 0.0
    own = isinstance(model, Classifier)
    known = model if own or not is_user_function(name) else as_classifier(model, shape, added)
    why = "" if own else f", nor features that it could be added to: {feature_problem(known)}"
    lost = added != 0 and (own or not isinstance(known, Classifier))
    require((not lost, f"model {name} has no setting noise (it has: {', '.join(_has(builder)) or 'none'}){why}"))
    return known


def _pretrained(name: str, *values: str | int) -> dict[str, Any]:
    """Those of `PRETRAINED`, of these values, that are given.

    Raises:
        InputError: the network is not torchvision's.
    """
    given = {setting: value for setting, value in zip(PRETRAINED, values, strict=True) if value}
    said = (
        f"model {name} has no setting {', '.join(given)} (torchvision:NAME has; a function of your own reads its own)"
    )
    require((not given or name.startswith(PREFIX), said))
    return given


def _settings(name: str, builder: Builder, width: float, depth: int | None, noise: float) -> dict[str, Any]:
    """Those of `width`, `depth` and `noise` that are given; a `width` of 1 too where the builder names it.

    A user's function may have another default.

    Raises:
        InputError: one is given that the builder has not, or the noise is none.
    """
    parameters = signature(builder).parameters
    given: dict[str, Any] = {"width": width} if width != 1.0 or "width" in parameters else {}
    given |= {} if depth is None else {"depth": depth}
    given |= {} if noise == 0 or _adds_noise(name, builder) else {"noise": noise}
    has = _has(builder)
    listed = ", ".join(has) or "none"
    instead = {"noise": ": say --noise 0, and metrics without mutual information (--metrics smoothness stealth)"}
    require(
        *((key in has, f"model {name} has no setting {key} (it has: {listed}){instead.get(key, '')}") for key in given),
        (0 <= noise < math.inf, f"noise of {name} must not be negative, and finite, got {noise}"),
    )
    return given
