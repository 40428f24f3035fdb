"""Feature extractors that are not trained here: torchvision's networks and the user's functions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.errors import InputError
from raybd.models import build_model
from raybd.models.torchvision_model import PREFIX, TorchvisionClassifier
from raybd.models.user_function import import_function
from raybd.seeds import forked_rng
from raybd.utils.files import expanded
from raybd.utils.source_files import source_hash

__all__ = ["PREFIX", "FrozenEncoder", "UserFunction", "torchvision_encoder"]

RANDOM = "random"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, on which published weights were trained
SIDE = 224  # pixels of images for a network whose published weights name no size


class FrozenEncoder(nn.Module):
    """A torchvision network without its last layer: (n, 1 or 3, H, W) uint8 -> (n, D) float32."""

    def __init__(self, classifier: TorchvisionClassifier, side: int | None) -> None:
        super().__init__()
        self.classifier, self.side = classifier.requires_grad_(False), side

    def forward(self, x: Tensor) -> Tensor:
        """The input of the last layer for the images `x`, repeated to three channels and resized to `side`."""
        x = (x.float() / 255).expand(-1, 3, -1, -1)
        if self.side is not None and tuple(x.shape[2:]) != (self.side, self.side):
            x = F.interpolate(x, size=(self.side, self.side), mode="bilinear", antialias=True)
        return self.classifier.features(self.classifier.normalise(x))

    def like(self, x: Tensor) -> Tensor:
        """An image without numbers, as the network gets those of `x` (N, C, H, W)."""
        side = (self.side, self.side) if self.side is not None else x.shape[2:]
        return torch.empty(3, *side, device=x.device)

    def extra_repr(self) -> str:
        """The side, where the module is printed."""
        return f"side={self.side}"


def torchvision_encoder(name: str, weights: str, seed: int, side: int | None) -> FrozenEncoder:
    """torchvision's network `name` without its last layer, with the `weights` of a file or random ones from `seed`.

    Raises:
        InputError: there is no such network or file, or the file is of another network.
    """
    if not weights:
        raise InputError(_weights_help(name))
    side = side or (None if weights == RANDOM else _published_side(name))
    shape = (3, side or SIDE, side or SIDE)
    with forked_rng(seed, "frozen backbone", device=torch.device("cpu")):
        classifier = build_model(f"{PREFIX}{name}", shape, 1000, MEAN, STD)
    assert isinstance(classifier, TorchvisionClassifier)
    if weights != RANDOM:
        _load_weights(classifier.body, expanded(weights), name)
    return FrozenEncoder(classifier, side).eval()


def _weights_help(name: str) -> str:
    return (
        f"features of {PREFIX}{name} need weights, and none are downloaded: give the file of a state dict, whose "
        f"address python -c \"from torchvision import models; print(models.get_model_weights('{name}').DEFAULT.url)\" "
        f"prints, or {RANDOM!r}"
    )


def _published_side(name: str) -> int:
    from torchvision import models

    try:
        return int(models.get_model_weights(name).DEFAULT.transforms().crop_size[0])
    except (ValueError, AttributeError):
        return SIDE


def _load_weights(body: nn.Module, file: Path, name: str) -> None:
    """Load the state dict in `file`; its entries for the last layer and for auxiliary ones are ignored."""
    try:
        state: Mapping[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        missing = body.load_state_dict(state, strict=False).missing_keys
    except Exception as error:
        raise InputError(f"the weights of {PREFIX}{name} in {file} cannot be used: {error}") from error
    if missing:
        raise InputError(f"{file} holds no weights of {PREFIX}{name}: it lacks {', '.join(missing[:3])}")


class UserFunction:
    """A user's function from images to features: (n, C, H, W) uint8 -> (n, D) floats."""

    def __init__(self, name: str) -> None:
        self.name, self.function = name, import_function(name, "features")

    @property
    def identity(self) -> str:
        """Its name and the source of its module and of what that imports; empty if that cannot be read."""
        source = source_hash(self.name.partition(":")[0])
        return f"{self.name} {source}" if source else ""

    def __call__(self, x: Tensor) -> Tensor:
        """The features of `x`.

        Raises:
            InputError: the function fails, or returns something else.
        """
        try:
            features = torch.as_tensor(self.function(x), device=x.device)
        except Exception as error:
            raise InputError(f"features {self.name} fail: {type(error).__name__}: {error}") from error
        if features.ndim != 2 or len(features) != len(x):
            raise InputError(f"{self.name} must return ({len(x)}, D) features, got {tuple(features.shape)}")
        return features
