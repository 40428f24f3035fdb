"""Base class of raybd's classifiers: images in [0, 1] -> normalised -> features -> head."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from raybd.errors import InputError
from raybd.models.noise import add_noise
from raybd.seeds import forked_rng

Shape = tuple[int, int, int]  # (C, H, W) of one image


class Classifier(nn.Module, ABC):
    """A network that normalises its own input, with the last linear layer apart from the rest.

    Normalising inside lets attacks and defences work on plain images in [0, 1]. With a `noise` above 0 it draws
    anew whenever it is called, in evaluation too: the features hold that of the layers before them, and the head
    reads them with N(0, noise^2) added.
    """

    head: nn.Linear  # (N, D) features -> (N, classes) logits
    mean: Tensor  # (1, C, 1, 1), of each channel in [0, 1]
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], noise: float = 0.0) -> None:
        super().__init__()
        self.noise = noise  # standard deviation at every site
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1))

    @property
    def feature_size(self) -> int:
        """D, the number of features that the head reads."""
        return self.head.in_features

    def normalise(self, x: Tensor) -> Tensor:
        """`x` (N, C, H, W) in [0, 1] with each channel at mean 0 and deviation 1 over the training images."""
        return (x - self.mean) / self.std

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """The pooled last block (N, D) of the *normalised* images `x` (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """The logits (N, classes) of the images `x` (N, C, H, W) in [0, 1]."""
        return self.classify(self.features(self.normalise(x)))

    def classify(self, features: Tensor) -> Tensor:
        """The logits (N, classes) of `features` (N, D), read through the head's own noise."""
        logits: Tensor = self.head(add_noise(features, self.noise) if self.noise else features)
        return logits


Builder = Callable[..., nn.Module]
"""(shape, classes, mean, std, *, width, depth, noise) -> an untrained model for images of `shape`; it takes those of
the settings that its architecture has. Its weights come from torch's global generator and nothing else."""


def require(*rules: tuple[bool, str]) -> None:
    """Raise one InputError with the messages of all `rules` (condition, message) whose condition does not hold."""
    if problems := [text for holds, text in rules if not holds]:
        raise InputError(problems)


def scale_channels(channels: int, width: float) -> int:
    """`channels` times `width`, rounded, and at least 4."""
    return max(4, round(channels * width))


def check_forward(name: str, model: nn.Module, shape: Shape, classes: int) -> None:
    """Check `model` by a forward pass of one zero image of `shape`, in eval mode and without gradient.

    Raises:
        InputError: the model cannot take the image, or its logits are not (1, classes).
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), forked_rng(0, "trial", device=torch.device("cpu")):
            logits = model(torch.zeros(1, *shape))
    except (Exception, SystemExit) as error:
        raise InputError(f"model {name} cannot take an image of shape {shape}: {error}") from error
    finally:
        model.train(training)
    got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    require((got == (1, classes), f"model {name} must return logits (1, {classes}) for one image, got {got}"))
