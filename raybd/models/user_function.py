"""Models built by the user's own function, named "module:function"."""

from collections.abc import Callable, Sequence
from functools import wraps
from importlib import import_module
from typing import Any

from torch import nn

from raybd.errors import InputError
from raybd.models.base import Builder, Shape, check_forward, require
from raybd.utils.source_files import source_hash


def user_builder(name: str) -> Builder:
    """The builder that calls the user's `function(shape, classes, **settings)`, `name` being "module:function".

    This runs the user's code. The function returns any nn.Module that takes images (N, C, H, W) in
    [0, 1] to logits (N, classes); `width` and `depth` are passed only if it has parameters so called.
    Defences and measures that read features need it to be a `raybd.models.Classifier`, or to end in a linear layer.

    Raises:
        InputError: there is no such function; the builder raises it where the function fails.
    """
    function = import_function(name, "model")

    @wraps(function)  # so that the settings in the signature are the user's
    def build(shape: Shape, classes: int, mean: Sequence[float], std: Sequence[float], **settings: Any) -> nn.Module:
        try:
            model: nn.Module = function(shape, classes, **settings)
        except (Exception, SystemExit) as error:
            raise InputError(f"model {name} fails: {type(error).__name__}: {error}") from error
        require((isinstance(model, nn.Module), f"{name} must return an nn.Module, got {type(model).__name__}"))
        check_forward(name, model, shape, classes)
        return model

    return build


def _said(error: BaseException) -> str:
    return str(error) if isinstance(error, Exception) else f"it ends the program ({type(error).__name__}: {error})"


def import_function(name: str, kind: str) -> Callable[..., Any]:
    """The function that `name`, "module:function", names; `kind` is what it is for, in messages.

    Raises:
        InputError: it cannot be imported, or is no function.
    """
    module, _, attribute = name.partition(":")
    try:
        function = getattr(import_module(module), attribute)
    except (Exception, SystemExit) as error:
        raise InputError(f"{kind} {name} cannot be imported: {_said(error)}") from error
    require((callable(function), f"{kind} {name} is no function but {type(function).__name__}"))
    source_hash(module)  # which remembers what was imported
    loaded: Callable[..., Any] = function
    return loaded
