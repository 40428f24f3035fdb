"""A fitted convex learner as a torch module: images in, logits out, so that metrics of networks apply to it."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from raybd.convex.learner import Learner
from raybd.convex.task import Array, BinaryTask

DecisionFunction = Callable[[Array], Array]  # points (N, d) -> decision values (N,)


class ConvexModel(nn.Module):
    """A torch module around `learner` fitted on `task`: class 1 where the decision value is above 0, else class 0."""

    def __init__(self, learner: Learner, task: BinaryTask, decision_function: DecisionFunction) -> None:
        super().__init__()
        self.learner, self.task, self.decision_function = learner, task, decision_function

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 2) float32 of images `x` (N, C, H, W) in [0, 1]; they differ by the decision value."""
        points = x.detach().flatten(1).cpu().numpy().astype(np.float64)
        return logits(self.decision_function(points)).to(x.device)


def logits(decisions: Array) -> Tensor:
    """(N, 2) float32 of `decisions` (N,): half of each, with its sign turned for class 0."""
    half = torch.from_numpy(decisions / 2).float()
    return torch.stack([-half, half], 1)
