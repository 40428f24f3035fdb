"""Models built by the user's own function, named "module:function" or by an entry point."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from torch import nn

from raybd.errors import InputError
from raybd.models.base import Builder, Shape, check_forward, require
from raybd.plugins.own import import_object, note_name, target_of
from raybd.utils.source_files import source_hash


def user_builder(name: str) -> Builder:
    """The builder that calls the user's `function(shape, classes, **settings)`, `name` being "module:function" or that
    of an entry point.

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


def import_function(name: str, kind: str) -> Callable[..., Any]:
    """The function that `name`, "module:function" or an entry point's, names; `kind` is what it is for, in messages.

    Raises:
        InputError: it cannot be imported, or is no function.
    """
    target = target_of(kind, name) or name
    loaded: Callable[..., Any] = import_object(target, f"{kind} {name}")
    require((callable(loaded), f"{kind} {name} is no function but {type(loaded).__name__}"))
    source_hash(target.partition(":")[0])  # which remembers what was imported
    note_name(kind, name)
    return loaded
