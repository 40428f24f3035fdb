"""`torchvision:NAME`: every torchvision classifier that ends in a linear layer, with random weights."""

from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial

from torch import Tensor, nn

from raybd.errors import InputError
from raybd.models.base import Builder, Classifier, Shape, check_forward, require
from raybd.models.noise import activation

PREFIX = "torchvision:"
NO_AUXILIARY = {"aux_logits": False, "init_weights": True}  # one answer an image, drawn without a warning
SETTINGS = {"googlenet": NO_AUXILIARY, "inception_v3": NO_AUXILIARY}


class TorchvisionClassifier(Classifier):
    """A torchvision model as a `Classifier`; its features are what its last linear layer reads.

    One channel is repeated to the three that these models take; the image is never resized.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], body: nn.Module, last: str, noise: float) -> None:
        super().__init__(mean, std, noise)
        head = body.get_submodule(last)
        assert isinstance(head, nn.Linear)
        self.head = head
        body.set_submodule(last, nn.Identity())
        self.body = body

    def features(self, x: Tensor) -> Tensor:
        """What the head reads for the normalised `x` (N, 1 or 3, H, W): (N, D)."""
        features: Tensor = self.body(x.expand(-1, 3, -1, -1))
        return features


def torchvision_builder(name: str) -> Builder:
    """The builder of torchvision's classifier called `name`.

    Raises:
        InputError: torchvision has no classifier of that name.
    """
    # Imported here since it takes over a second, and every worker of a sweep imports raybd.models.
    from torchvision import models

    if name not in (known := models.list_models(module=models)):
        near = ", ".join(get_close_matches(name, known))
        hint = f"did you mean {near}?" if near else "torchvision.models.list_models() lists them"
        raise InputError(f"unknown torchvision model: {name} ({hint})")
    return partial(_vgg if name.startswith("vgg") else _plain, name)


def _plain(name: str, shape: Shape, classes: int, mean: Sequence[float], std: Sequence[float]) -> Classifier:
    return _build(name, shape, classes, mean, std, 0.0)


def _vgg(
    name: str, shape: Shape, classes: int, mean: Sequence[float], std: Sequence[float], *, noise: float = 0.0
) -> Classifier:
    """The one family whose noise sites are plain: after every ReLU of its convolutions, and before the head."""
    return _build(name, shape, classes, mean, std, noise)


def _build(
    name: str, shape: Shape, classes: int, mean: Sequence[float], std: Sequence[float], noise: float
) -> Classifier:
    from torchvision import models

    label = f"{PREFIX}{name}"
    body = models.get_model(name, weights=None, num_classes=classes, **SETTINGS.get(name, {}))
    last, layer = list(body.named_modules())[-1]
    require(
        (shape[0] in (1, 3), f"{label} takes images of 1 or 3 channels, got {shape[0]}"),
        (isinstance(layer, nn.Linear), f"{label} ends in {type(layer).__name__}, not in a linear layer"),
    )
    if noise:
        convolutions = body.get_submodule("features")
        for position, part in list(convolutions.named_children()):
            if isinstance(part, nn.ReLU):
                convolutions.set_submodule(position, activation(noise))
    model = TorchvisionClassifier(mean, std, body, last, noise)
    check_forward(label, model, shape, classes)
    return model
