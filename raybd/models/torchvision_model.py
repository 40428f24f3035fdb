"""`torchvision:NAME`: torchvision's classifiers that end in a linear layer, with random or pretrained weights."""

from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from raybd.errors import InputError
from raybd.models.base import Builder, Classifier, Shape, check_forward, require
from raybd.models.noise_sites import add_sites, has_sites
from raybd.models.patches import TRANSFORMERS, has_patches, image_size, set_patches
from raybd.models.pretrained import SIZE, Pretrained, fill, load_pretrained

PREFIX = "torchvision:"
NO_AUXILIARY = {"aux_logits": False, "init_weights": True}  # one answer an image, drawn without a warning
SETTINGS = {"googlenet": NO_AUXILIARY, "inception_v3": NO_AUXILIARY}


class TorchvisionClassifier(Classifier):
    """A torchvision model as a `Classifier`; its features are what its last linear layer reads.

    One channel is repeated to the three that these models take. With an `input_size` above 0 images are made squares
    of so many pixels first, bilinearly.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        body: nn.Module,
        last: str,
        noise: float,
        input_size: int = 0,
    ) -> None:
        super().__init__(mean, std, noise)
        self.input_size = input_size
        head = body.get_submodule(last)
        assert isinstance(head, nn.Linear)
        self.head = head
        body.set_submodule(last, nn.Identity())
        self.body = body

    def features(self, x: Tensor) -> Tensor:
        """What the head reads for the normalised `x` (N, 1 or 3, H, W): (N, D)."""
        if self.input_size:
            smaller = self.input_size < min(x.shape[2:])
            x = F.interpolate(x, (self.input_size,) * 2, mode="bilinear", antialias=smaller)
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
    return partial(_noisy if has_sites(name) else _plain, name)


def _plain(
    name: str,
    shape: Shape,
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    weights: str = "",
    input_size: int = 0,
    patch_size: int = 0,
) -> Classifier:
    return _build(name, shape, classes, mean, std, 0.0, _Given(weights, input_size, patch_size))


def _noisy(
    name: str,
    shape: Shape,
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    noise: float = 0.0,
    weights: str = "",
    input_size: int = 0,
    patch_size: int = 0,
) -> Classifier:
    """The families whose places for noise are known (`noise_sites.py`)."""
    return _build(name, shape, classes, mean, std, noise, _Given(weights, input_size, patch_size))


class _Given(NamedTuple):
    """The settings that torchvision's networks alone have; as little as can be: none."""

    weights: str
    input_size: int
    patch_size: int

    def check(self, name: str) -> None:
        """Raise InputError with everything that torchvision's network `name` cannot have."""
        label, patch = f"{PREFIX}{name}", self.patch_size
        require(
            (
                not (self.weights and name in SETTINGS),
                f"{label} reads images in another way with torchvision's weights",
            ),
            (self.input_size >= 0, f"input_size of {label} must not be negative, got {self.input_size}"),
            (patch >= 0, f"patch_size of {label} must not be negative, got {patch}"),
            (not patch or has_patches(name), f"{label} has no setting patch_size (vit_, convnext and densenet have)"),
            (not (patch and self.weights), f"the weights of {label} are of its own patches: leave --patch-size out"),
        )


def _build(
    name: str, shape: Shape, classes: int, mean: Sequence[float], std: Sequence[float], noise: float, given: _Given
) -> Classifier:
    from torchvision import models

    label = f"{PREFIX}{name}"
    given.check(name)
    pretrained = load_pretrained(name, given.weights) if given.weights else None
    size, patch = _side(name, label, given, pretrained, shape), given.patch_size
    sized = {}
    if name.startswith(TRANSFORMERS):
        sized = {"image_size": image_size(name, size, patch) if patch else size}
    try:
        body = models.get_model(name, weights=None, num_classes=classes, **SETTINGS.get(name, {}), **sized)
    except (ValueError, AssertionError) as error:
        raise InputError(f"{label} cannot take images of {size}x{size}: {error}") from error
    if patch:
        set_patches(name, body, patch, size)
    last, layer = list(body.named_modules())[-1]
    require(
        (shape[0] in (1, 3), f"{label} takes images of 1 or 3 channels, got {shape[0]}"),
        (isinstance(layer, nn.Linear), f"{label} ends in {type(layer).__name__}, not in a linear layer"),
    )
    if pretrained is not None:
        fill(body, pretrained, last, label)
        mean, std = pretrained.mean, pretrained.std
    if noise:
        add_sites(name, body, noise)
    model = TorchvisionClassifier(mean, std, body, last, noise, size)
    check_forward(label, model, shape, classes)
    return model


def _side(name: str, label: str, given: _Given, pretrained: Pretrained | None, shape: Shape) -> int:
    """The side in pixels that images are resized to inside the network; 0: they stay as they are.

    Raises:
        InputError: a transformer has weights for another size, or images that are no squares.
    """
    fixed, input_size = name.startswith(TRANSFORMERS), given.input_size
    if pretrained is None and fixed and given.patch_size and not input_size:
        require((shape[1] == shape[2], f"{label} takes squares, got {shape[1]}x{shape[2]}: say --input-size"))
        return shape[1]
    if pretrained is None:
        return input_size or (SIZE if fixed else 0)
    if fixed and input_size not in (0, pretrained.size):
        raise InputError(f"the weights of {label} are for images of {pretrained.size} pixels: leave --input-size out")
    return input_size or pretrained.size
