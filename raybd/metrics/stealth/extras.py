"""Costly metrics that need packages which are not installed by default."""

import importlib
import importlib.util
import warnings
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.errors import InputError
from raybd.models.batch_size import batch_size, batched

PACKAGES = {"hessian": "curvlinops-for-pytorch", "lpips": "lpips"}
MODULES = {"hessian": "curvlinops", "lpips": "lpips"}
LPIPS_AT_ONCE = 64  # pairs
SMALLEST = 64  # pixels that LPIPS's network needs: smaller images are enlarged


def missing_packages(names: tuple[str, ...]) -> list[str]:
    """One line for each of `names` whose package is missing: what to install."""
    missing = [name for name in names if importlib.util.find_spec(MODULES[name]) is None]
    return [
        f"stealth_full: {name} needs the package {PACKAGES[name]}: pip install {PACKAGES[name]}" for name in missing
    ]


def top_hessian_eigenvalue(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The largest eigenvalue of the Hessian of the mean cross-entropy on `x` (N, C, H, W) in [0, 1] in all weights.

    Raises:
        InputError: curvlinops is not installed.
    """
    _require("hessian")
    from scipy.sparse.linalg import eigsh

    operators = importlib.import_module("curvlinops")
    size = max(1, batch_size(model, x, 2 * len(x), gradients=True) // 2)  # a product with the Hessian goes back twice
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    parts, loss = list(zip(x.split(size), y.split(size), strict=True)), nn.CrossEntropyLoss()
    operator = operators.HessianLinearOperator(model, loss, weights, parts, check_deterministic=False)
    return float(eigsh(operator.to_scipy(), k=1, which="LA", return_eigenvectors=False)[0])


def lpips(clean: Tensor, triggered: Tensor) -> Tensor:
    """(N,) LPIPS of images (N, C, H, W) in [0, 1] by AlexNet, enlarged to 64 pixels; its weights are downloaded.

    Raises:
        InputError: lpips is not installed, or its weights cannot be had.
    """
    _require("lpips")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            distance = importlib.import_module("lpips").LPIPS(net="alex", verbose=False).to(clean.device).eval()
    except OSError as error:
        raise InputError(f"stealth_full: the weights of lpips cannot be downloaded: {error}") from error
    with torch.inference_mode():
        return batched(partial(_distances, distance), clean, triggered, size=LPIPS_AT_ONCE)


def _distances(network: nn.Module, clean: Tensor, triggered: Tensor) -> Tensor:
    found: Tensor = network(_lpips_input(clean), _lpips_input(triggered)).flatten()
    return found


def _lpips_input(x: Tensor) -> Tensor:
    larger = max(1.0, SMALLEST / min(x.shape[2:]))
    enlarged = F.interpolate(x, scale_factor=larger, mode="bilinear", antialias=False) if larger > 1 else x
    return enlarged.expand(-1, 3, -1, -1) * 2 - 1


def _require(name: str) -> None:
    if missing := missing_packages((name,)):
        raise InputError(missing)
