"""The same slope for a small net that is trained to its optimum (check H9): conjugate gradients know no convexity."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raybd.convex import BinaryTask
from raybd.convex.newton import conjugate_gradient
from tests import test_convex_mnist as mnist
from tests.test_convex_digits import digits_task

HIDDEN, DECAY = 8, 1e-2


@dataclass(frozen=True)
class Net:
    """d-8-1 with tanh as one parameter vector: mean log-loss on clean points, beta on the poison, weight decay."""

    task: BinaryTask

    def decision_function(self, theta: Tensor, x: np.ndarray) -> Tensor:
        d = x.shape[1]
        first, bias, second, last = theta.split([d * HIDDEN, HIDDEN, HIDDEN, 1])
        return torch.tanh(torch.from_numpy(x) @ first.view(d, HIDDEN) + bias) @ second + last

    def losses(self, theta: Tensor, x: np.ndarray, sign: np.ndarray) -> Tensor:
        return F.softplus(-torch.from_numpy(sign) * self.decision_function(theta, x))

    def objective(self, theta: Tensor, beta: float) -> Tensor:
        losses = self.losses(theta, self.task.train_x, self.task.train_sign)
        weights = torch.from_numpy(self.task.weights(beta))
        return (weights * losses).sum() / (~self.task.poisoned).sum() + DECAY / 2 * theta @ theta

    def curve(self, theta: Tensor) -> Tensor:
        return self.losses(theta, self.task.triggered_x, self.task.triggered_sign).mean()


def train(net: Net, theta: Tensor, beta: float) -> Tensor:
    """Full batch L-BFGS to a gradient of norm 1e-9."""
    theta = theta.clone().requires_grad_()
    options = {"max_iter": 3000, "tolerance_grad": 1e-12, "tolerance_change": 0, "history_size": 50}
    optimiser = torch.optim.LBFGS([theta], line_search_fn="strong_wolfe", **options)

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = net.objective(theta, beta)
        value.backward()
        return value

    optimiser.step(closure)
    assert theta.grad is not None
    assert theta.grad.norm() < 1e-8
    return theta.detach()


def gradient(function: Callable[[Tensor], Tensor], theta: Tensor) -> np.ndarray:
    theta = theta.clone().requires_grad_()
    [found] = torch.autograd.grad(function(theta), theta)
    return found.numpy()


def slope(net: Net, theta: Tensor, damping: float) -> float:
    """- gbar (H + damping)^-1 g_P, products with H by differentiating twice."""
    theta = theta.clone().requires_grad_()
    [first] = torch.autograd.grad(net.objective(theta, 0.0), theta, create_graph=True)

    def product(v: np.ndarray) -> np.ndarray:
        [second] = torch.autograd.grad(first, theta, torch.from_numpy(v), retain_graph=True)
        return second.numpy() + damping * v

    pushed = gradient(lambda t: net.objective(t, 1.0), theta.detach()) - first.detach().numpy()
    at_test = gradient(net.curve, theta.detach())
    return float(-conjugate_gradient(product, at_test, 1e-8) @ pushed)


@pytest.mark.parametrize("where", ["digits", "mnist"])
def test_h9_slope_of_a_net_at_its_optimum(where: str) -> None:
    if where == "mnist" and mnist.MISSING:
        pytest.skip(mnist.pytestmark.kwargs["reason"])
    task = digits_task() if where == "digits" else mnist.task(999, 6)
    net = Net(task)
    size = HIDDEN * (task.train_x.shape[1] + 2) + 1
    start = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.1
    theta = train(net, start, 0.0)
    found = slope(net, theta, 0.0)
    warm = train(net, theta, 1e-4)
    secant = float(net.curve(warm) - net.curve(theta)) / 1e-4
    assert found < 0
    assert secant == pytest.approx(found, rel=0.01)
    sizes = [abs(slope(net, theta, damping)) for damping in (0.0, 1e-3, 1e-2, 1e-1)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2] < 0.9 * sizes[0]
