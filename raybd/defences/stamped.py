"""Stamped: a network whose images are all stamped by its defender before it looks at them, once it is deployed."""

import torch
from torch import Tensor

from raybd.models import Classifier

LEAST = 2  # pixels of a stamp's side, however small the image


class Stamped(Classifier):
    """A network that stamps what it is given in evaluation, and not in training: there its defence stamps.

    The stamp is a square in the upper left corner. It is part of how images are normalised, so that measures of the
    features see it too.
    """

    stamp_value: Tensor  # (1, C, 1, 1), as images are: in [0, 1], or outside of it

    def __init__(self, inner: Classifier, side: float, value: Tensor) -> None:
        """`side` is a share of the shorter side of an image, rounded to 2 pixels or more; `value` (1, C, 1, 1)."""
        super().__init__(inner.mean.flatten().tolist(), inner.std.flatten().tolist(), inner.noise)
        self.inner, self.side = inner, side
        self.head = inner.head
        self.register_buffer("stamp_value", value.clone())

    def stamp(self, x: Tensor) -> Tensor:
        """The images `x` (N, C, H, W) with the stamp."""
        pixels = max(LEAST, round(self.side * min(x.shape[2:])))
        covered = torch.zeros(x.shape[2:], dtype=torch.bool, device=x.device)
        covered[:pixels, :pixels] = True
        return torch.where(covered, self.stamp_value.to(x.dtype), x)

    def normalise(self, x: Tensor) -> Tensor:
        """What the network inside makes of `x` (N, C, H, W); in evaluation, of `x` with the stamp."""
        return self.inner.normalise(x if self.training else self.stamp(x))

    def features(self, x: Tensor) -> Tensor:
        """Those of the network inside, (N, D), of the normalised `x` (N, C, H, W)."""
        return self.inner.features(x)

    def extra_repr(self) -> str:
        """The side, where the module is printed."""
        return f"side={self.side:g}"
