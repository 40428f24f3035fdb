"""NNCLR (Dwibedi et al. 2021, arXiv:2104.14548): contrastive learning with nearest neighbours as positives."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.pretraining.config import PretrainConfig
from raybd.pretraining.heads import mlp


def nearest(z: Tensor, queue: Tensor) -> Tensor:
    """For each row of `z` (B, d) the row of `queue` (Q, d) with the largest product (equation 1)."""
    return queue[(z @ queue.T).argmax(1)]


def info_nce(anchors: Tensor, predictions: Tensor, temperature: float) -> Tensor:
    """Mean over i of -log(exp(a_i p_i / t) / sum_k exp(a_i p_k / t)), in nats, of unit rows (B, d) (equation 3)."""
    rows = torch.arange(len(anchors), device=anchors.device)
    return F.cross_entropy(anchors @ predictions.T / temperature, rows)


class NnClr(nn.Module):
    """Projector, predictor and queue of NNCLR with its loss."""

    queue: Tensor  # (Q, d) unit rows, newest first; at first random directions

    def __init__(self, size: int, config: PretrainConfig) -> None:
        super().__init__()
        self.temperature = config.temperature
        self.projector = mlp(size, config.hidden, config.projection)
        self.predictor = mlp(config.projection, config.hidden, config.projection)
        self.register_buffer("queue", F.normalize(torch.randn(config.queue, config.projection), dim=1))

    def forward(self, features: Tensor) -> Tensor:
        """The loss, in nats, of `features` (2B, size): B first views, then B second views.

        The mean of both directions; no gradient goes through the neighbours. Then the first views' projections
        replace the oldest in the queue.
        """
        projected = self.projector(features)
        first, second = F.normalize(self.predictor(projected).float(), dim=1).chunk(2)
        with torch.no_grad():
            of_first, of_second = F.normalize(projected.float(), dim=1).chunk(2)
            near_first, near_second = nearest(of_first, self.queue), nearest(of_second, self.queue)
            self.queue = torch.cat([of_first, self.queue])[: len(self.queue)]
        there = info_nce(near_first, second, self.temperature)
        back = info_nce(near_second, first, self.temperature)
        return (there + back) / 2
