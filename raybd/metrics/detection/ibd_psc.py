"""IBD-PSC: an image whose class stays sure while the network's batch norms are amplified carries a trigger.

Hou, Feng, Hua, Luo, Zhang and Li, "IBD-PSC: Input-level Backdoor Detection via Parameter-oriented Scaling Consistency",
ICML 2024 (arXiv:2405.09786). Constants as in the authors' code.
"""

import copy
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from raybd.errors import InputError
from raybd.metrics.detection.inputs import InputDetector
from raybd.metrics.detection.roc import Values
from raybd.metrics.subset import random_images
from raybd.models.batch_size import batch_size, batched
from raybd.types import Images, MetricContext
from raybd.utils.constraints import Share

BATCH = 512  # at most


@dataclass(frozen=True, kw_only=True)
class IbdPsc(InputDetector):
    """The score is the mean probability of an image's own class in networks with ever more amplified batch norms.

    Weights and biases of the last k batch norms are multiplied by `scale`; the first of `networks` has one more than
    the least k at which the error on clean images is above `error_rate`, each next one more. Where a network has fewer
    batch norms than that, all of them are amplified. Clean images are validation images where some are set aside, else
    training images before they were poisoned.
    """

    networks: Annotated[int, Ge(1)] = 5
    scale: Annotated[float, Gt(1)] = 1.5
    error_rate: Share = 0.6
    clean: Annotated[int, Ge(1)] = 200  # images, at most

    name: ClassVar[str] = "ibd_psc"

    def scores(self, model: nn.Module, x: Tensor, rows: list[int], context: MetricContext) -> Values:
        """The parameter-oriented scaling consistency (N,) of each image, in [0, 1].

        Raises:
            InputError: the network has no batch norm.
        """
        clean = random_images(context.clean_images, self.clean, context.seed, "ibd_psc", "clean")
        first = self.first_number(model, clean)
        amplified = [amplify(model, number + 1, self.scale) for number in range(first, first + self.networks)]
        return mean_confidence(model, amplified, x) if len(x) else np.zeros(0)

    @torch.inference_mode()
    def first_number(self, model: nn.Module, clean: Images) -> int:
        """The least number of batch norms, from the end, whose amplification takes the error above `error_rate`.

        Short of all of them; where none of these numbers does, the largest.
        """
        total = len(_norms(model))
        if not total:
            raise InputError("ibd_psc amplifies batch norms, and this network has none")
        x, size = clean.x.float() / 255, batch_size(model, clean.x, BATCH)
        for number in range(1, total):
            network = amplify(model, number, self.scale)
            wrong = batched(lambda some, network=network: network(some).argmax(1), x, size=size) != clean.y
            if float(wrong.double().mean()) > self.error_rate:
                return number
        return max(1, total - 1)


def amplify(model: nn.Module, number: int, scale: float) -> nn.Module:
    """A copy of `model` whose last `number` batch norms have their weights and biases multiplied by `scale`."""
    network = copy.deepcopy(model)
    with torch.no_grad():
        for norm in _norms(network)[-number:]:
            norm.weight.mul_(scale)
            norm.bias.mul_(scale)
    return network


@torch.inference_mode()
def mean_confidence(model: nn.Module, networks: list[nn.Module], x: Tensor) -> Values:
    """(N,): over `networks` the mean probability of the class that `model` gives each image `x` (N, C, H, W)."""
    size = batch_size(model, x, BATCH)
    classes = batched(lambda some: model(some).argmax(1), x, size=size)
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for network in networks:
        chances = batched(lambda some, network=network: network(some).float().softmax(1), x, size=size)
        total += chances.gather(1, classes[:, None]).squeeze(1).double()
    found: Values = (total / len(networks)).cpu().numpy()
    return found


def _norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
