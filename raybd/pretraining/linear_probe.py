"""A linear head on features that stay: multinomial logistic regression, solved to its one optimum."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

PENALTY = 1e-3  # usual weight of the squares
STEPS = 500  # of L-BFGS, at most
FLAT, STILL = 1e-6, 1e-10  # largest gradient at an optimum; change of a step that is none


def fit_linear(
    v: Tensor, y: Tensor, classes: int, penalty: float = PENALTY, heartbeat: Callable[[], None] = lambda: None
) -> tuple[Tensor, Tensor]:
    """Weight (K, D) and bias (K,), float32, of the linear head that tells labels `y` (N,) by features `v` (N, D).

    They minimise mean cross-entropy + `penalty` / 2 * |W|^2 (nats), W being the weights for features of mean 0 and
    deviation 1, in float64; scikit-learn's LogisticRegression(C=1 / (N * penalty)) has the same optimum. `heartbeat` is
    called in every step.
    """
    mean, deviation = v.double().mean(0), v.double().std(0, correction=0).clamp_min(1e-12)
    x = (v.double() - mean) / deviation
    weight = torch.zeros(classes, v.shape[1], dtype=torch.float64, device=v.device, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, device=v.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=STEPS,
        tolerance_grad=FLAT,
        tolerance_change=STILL,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        heartbeat()
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(x, weight, bias), y) + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(objective)
    scaled = weight.detach() / deviation
    return scaled.float(), (bias.detach() - scaled @ mean).float()
