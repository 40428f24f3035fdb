"""A network on features that are not trained here: what a foundation model's user deploys."""

from typing import cast

import torch
from torch import Tensor, nn

from raybd.models import Classifier
from raybd.models.base import Shape
from raybd.pretraining.frozen import Extractor, embed, extractor


class FrozenBackbone(Classifier):
    """A linear head on what `source` (see `extractor`) tells of images of `shape`; the source is never trained.

    For a function of one's own, `--model yourmodule:yourfunction`, that returns it: with `--defences
    vibe:features=own,tuned=false` VIBE's FM variant, with none a linear probe.
    """

    def __init__(self, source: str, shape: Shape, classes: int, *, weights: str = "", side: int | None = None) -> None:
        super().__init__((0.0,) * shape[0], (1.0,) * shape[0])
        self.source: Extractor = extractor(source, weights=weights, side=side)
        size = embed(self.source, torch.zeros(2, *shape, dtype=torch.uint8)).shape[1]
        self.head = nn.Linear(size, classes)

    def features(self, x: Tensor) -> Tensor:
        """(N, D) of the images `x` (N, C, H, W) in [0, 1], taken to the nearest byte."""
        with torch.no_grad():
            pixels = (x * 255).round().clamp(0, 255).to(torch.uint8)
            return cast(Tensor, self.source(pixels)).float()

    def train(self, mode: bool = True) -> "FrozenBackbone":
        """Training mode is the head's alone."""
        super().train(mode)
        if isinstance(self.source, nn.Module):
            self.source.eval()
        return self
