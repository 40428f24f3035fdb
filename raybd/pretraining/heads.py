"""Projection heads: behind an encoder while it is pretrained, thrown away afterwards."""

from torch import nn


def mlp(size: int, hidden: int, out: int) -> nn.Sequential:
    """Linear, batch norm, ReLU, linear: (N, size) -> (N, out)."""
    first = nn.Linear(size, hidden, bias=False)  # batch norm takes away what a bias adds
    return nn.Sequential(first, nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out))
