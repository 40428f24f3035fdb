"""A classifier on frozen features: a linear probe, as it is deployed on a foundation model."""

from typing import cast

import torch
from torch import Tensor, nn

from raybd.models import Classifier
from raybd.models.base import Shape
from raybd.pretraining.extractors import UserFunction
from raybd.pretraining.features import Extractor, embed, extractor


class FrozenBackbone(Classifier):
    """A linear head on the features of images of `shape` by `source` (see `extractor`), which is never trained.

    To be returned by a user's function, `--model yourmodule:yourfunction`: with `--defences
    vibe:features=own,tuned=false` it is VIBE's FM variant, without a defence a linear probe.
    """

    def __init__(self, source: str, shape: Shape, classes: int, *, weights: str = "", side: int | None = None) -> None:
        super().__init__((0.0,) * shape[0], (1.0,) * shape[0])
        self.source: Extractor = extractor(source, weights=weights, side=side)
        size = embed(self.source, torch.zeros(2, *shape, dtype=torch.uint8)).shape[1]
        self.head = nn.Linear(size, classes)

    def features(self, x: Tensor) -> Tensor:
        """(N, D) of the images `x` (N, C, H, W) in [0, 1], rounded to 8 bits."""
        with torch.no_grad():
            pixels = (x * 255).round().clamp(0, 255).to(torch.uint8)
            return cast(Tensor, self.source(pixels)).float()

    def extra_repr(self) -> str:
        """What a function of the user's is, where the module is printed: it holds no weights that would tell."""
        return self.source.identity if isinstance(self.source, UserFunction) else ""

    def train(self, mode: bool = True) -> "FrozenBackbone":
        """Set training mode for the head; the source stays in evaluation mode."""
        super().train(mode)
        if isinstance(self.source, nn.Module):
            self.source.eval()
        return self
