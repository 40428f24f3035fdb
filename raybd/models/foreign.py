"""Networks from elsewhere: any of torchvision's classifiers, or a function of the user's own."""

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torchvision
from torch import Tensor, nn

from raybd.errors import InputError
from raybd.models.base import Classifier, Shape
from raybd.plugins import unknown


class Wrapped(Classifier):
    """A torchvision classifier, which normalises inside and takes grey images as three equal channels."""

    def __init__(self, body: nn.Module, head: nn.Linear, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(mean, std)
        self.body, self.head = body, head

    def features(self, x: Tensor) -> Tensor:
        """What torchvision's last linear layer reads of the normalised `x` (N, 1 or 3, H, W): (N, D)."""
        out: Tensor = self.body(x.expand(-1, 3, -1, -1))
        return out


def torchvision_model(name: str, shape: Shape, classes: int, mean: Sequence[float], std: Sequence[float]) -> Classifier:
    """The untrained torchvision classifier after the colon of `name`, its last linear layer as the head.

    Raises:
        InputError: torchvision has no such classifier, or it does not end in a linear layer.
    """
    wanted = name.partition(":")[2]
    known = torchvision.models.list_models(module=torchvision.models)
    if problems := unknown("torchvision model", [wanted], known):
        raise InputError(problems)
    plain = {"aux_logits": False, "init_weights": True}
    extra = plain if wanted in ("googlenet", "inception_v3") else {}
    body = torchvision.models.get_model(wanted, weights=None, num_classes=classes, **extra)
    path, head = [(path, part) for path, part in body.named_modules() if not list(part.children())][-1]
    if not isinstance(head, nn.Linear):
        raise InputError(f"torchvision model {wanted} ends in {type(head).__name__}, not in a linear layer")
    body.set_submodule(path, nn.Identity())
    return Wrapped(body, head, mean, std)


def own_function(name: str) -> Callable[..., Any]:
    """The function that `module:function` names; importing the module runs its code.

    Raises:
        InputError: it cannot be imported.
    """
    module, _, function = name.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"model {name} cannot be imported: {error}") from error
    return found


def own_model(name: str, shape: Shape, classes: int, **settings: Any) -> nn.Module:
    """What the user's function(shape, classes, **settings) returns; it takes images in [0, 1].

    Raises:
        InputError: the function fails or returns no module.
    """
    function = own_function(name)
    try:
        model = function(shape, classes, **settings)
    except Exception as error:
        raise InputError(f"model {name} fails: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"model {name} must return a torch.nn.Module, got {type(model).__name__}")
    return model


def settings_of(function: Callable[..., Any]) -> list[str]:
    """The settings (width, depth) that a builder takes by keyword."""
    return [name for name in inspect.signature(function).parameters if name in ("width", "depth")]
