"""LARS (You, Gitman and Ginsburg 2017, arXiv:1708.03888): SGD whose step is in proportion to each layer's weights."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

TRUST = 0.02  # the share of a layer's norm that a step of learning rate 1 may move it; that of All4One's recipe


class Lars(Optimizer):
    """v <- momentum v + lr r (g + wd w), w <- w - v, with r = TRUST |w| / (|g| + wd |w|) for each parameter.

    r is 1 where a norm is 0. Biases and norms (parameters of one dimension) take no weight decay and r = 1.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step for every parameter that has a gradient; there is no closure."""
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, weight.grad, group)

    def _move(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        decay = group["weight_decay"]
        if weight.ndim > 1:
            size, slope = weight.norm(), gradient.norm()
            ratio = torch.where((size > 0) & (slope > 0), TRUST * size / (slope + decay * size), 1.0)
            gradient = ratio * (gradient + decay * weight)
        state = self.state[weight]
        if not state:
            state["velocity"] = torch.zeros_like(weight)
        weight -= state["velocity"].mul_(group["momentum"]).add_(gradient, alpha=group["lr"])
