"""The network that is inspected: from a file, or as it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from raybd.errors import InputError
from raybd.models import build_model
from raybd.models.base import check_forward
from raybd.models.network_files import ExportedNetwork, OnnxNetwork, read_network, read_state_dict
from raybd.models.weight_names import misfits
from raybd.plugins import unknown
from raybd.trials.model import NETWORK, ModelConfig
from raybd.types import Data


@dataclass(frozen=True)
class Suspect:
    """A trained network, in evaluation mode."""

    label: str
    network: nn.Module
    model: ModelConfig | None = None  # how raybd builds one like it; None where that is not known

    @property
    def has_gradients(self) -> bool:
        """Whether derivatives by the image can be had of it."""
        return not any(isinstance(part, OnnxNetwork) for part in self.network.modules())

    @property
    def trainable(self) -> bool:
        """Whether it can be trained on: programs cannot, which are in evaluation for good."""
        programs = (OnnxNetwork, ExportedNetwork)
        return not any(isinstance(part, programs) for part in self.network.modules())


class Normalised(nn.Module):
    """A network that wants normalised images, given images in [0, 1]."""

    mean: Tensor  # (1, C, 1, 1)
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The logits of the images `x` (N, C, H, W) in [0, 1]."""
        logits: Tensor = self.network((x - self.mean) / self.std)
        return logits


def suspect_of(
    given: str | Path | nn.Module,
    data: Data,
    model: ModelConfig | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> Suspect:
    """The network in the file `given`, or `given` itself, which takes images of `data` in [0, 1].

    Args:
        given: a state_dict, for which `model` must be named; TorchScript, a .pt2 file of torch.export or ONNX, whose
            weights are loaded into `model` where one is named, and which are run as they are otherwise; or a network.
        data: the images.
        model: the network by raybd's name, or module:function.
        mean: of each channel in [0, 1], where the network wants images normalised; (): it does that itself.
        std: likewise.

    Raises:
        InputError: the file cannot be read, has not the weights of `model`, or does not take the images.
    """
    if len(mean) != len(std) or len(mean) not in (0, 1, data.train.shape[0]):
        raise InputError(f"mean and std must both have {data.train.shape[0]} values, one a channel, or none")
    label = type(given).__name__ if isinstance(given, nn.Module) else Path(given).name
    if isinstance(given, nn.Module):
        network = given
    else:
        network = read_network(given) if model is None else _rebuilt(given, model, data)
    network = Normalised(network, mean, std).eval() if mean else network.eval()
    check_forward(label, network, data.train.shape, len(data.classes))
    return Suspect(label, network, model)


def _rebuilt(path: str | Path, model: ModelConfig, data: Data) -> nn.Module:
    """The network `model` with the weights in the file at `path`."""
    if model.kind is not NETWORK:
        raise InputError(f"{model.name} is a convex learner: a network is wanted")
    network = build_model(
        model.name, data.train.shape, len(data.classes), data.mean, data.std, **model.network_settings
    )
    weights, own = read_state_dict(path), network.state_dict()
    if found := misfits(weights, own):
        raise InputError(f"{path} has not the weights of {model.name}: {'; '.join(found)}")
    network.load_state_dict(weights)
    return network


def check_names(network: str, known: Sequence[str]) -> list[str]:
    """Why `network` names none."""
    return [] if ":" in network else unknown("model", [network], known)
