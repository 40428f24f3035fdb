"""SimCLR (Chen et al. 2020, arXiv:2002.05709): contrastive learning of two views of each image in a batch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.pretraining.config import PretrainConfig
from raybd.pretraining.heads import mlp


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """The normalised, temperature-scaled cross-entropy (equation 1 of the paper), mean over the rows, in nats.

    Rows i and i + B of `z` (2B, d) are the two views of an image: with s the cosine over the temperature, the mean
    of -s(i, i') + log sum_{k != i} exp s(i, k) over all 2B rows i, i' being the other view.
    """
    unit = F.normalize(z.float(), dim=1)
    similarity = (unit @ unit.T / temperature).fill_diagonal_(-torch.inf)
    rows = torch.arange(len(z), device=z.device)
    return F.cross_entropy(similarity, rows.roll(len(z) // 2))


class SimClr(nn.Module):
    """The projection head of SimCLR with its loss, NT-Xent."""

    def __init__(self, size: int, config: PretrainConfig) -> None:
        super().__init__()
        self.temperature = config.temperature
        self.projector = mlp(size, config.hidden, config.projection)

    def forward(self, features: Tensor) -> Tensor:
        """The loss, in nats, of `features` (2B, size): B first views, then B second views."""
        return nt_xent(self.projector(features), self.temperature)
