"""A solved learner as a network: images in, logits out, so that whatever looks at a trial's network can look at it."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from raybd.convex.learner import Learner
from raybd.convex.task import Array, Task

Decide = Callable[[Array], Array]  # points (N, d) -> decision values (N,)


class ConvexModel(nn.Module):
    """`learner` solved on `task`. Class 1 is predicted where the decision value is above 0, class 0 elsewhere."""

    def __init__(self, learner: Learner, task: Task, decide: Decide) -> None:
        super().__init__()
        self.learner, self.task, self.decide = learner, task, decide

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 2) float32 of images `x` (N, C, H, W) in [0, 1]; they differ by the decision value."""
        points = x.detach().flatten(1).cpu().numpy().astype(np.float64)
        return logits(self.decide(points)).to(x.device)


def logits(decisions: Array) -> Tensor:
    """(N, 2) float32 of `decisions` (N,): half of each, with its sign turned for class 0."""
    half = torch.from_numpy(decisions / 2).float()
    return torch.stack([-half, half], 1)
