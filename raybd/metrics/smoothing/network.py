"""A network made ready for many forward passes: refused in training mode, batch norm folded, the head in float32."""

import copy
import logging
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse, optimize_for_inference

from raybd.errors import InputError
from raybd.models import Classifier
from raybd.models.float32_convolution import Float32Conv2d, to_float32_conv
from raybd.models.noise import NoisyReLU, without_noise

log = logging.getLogger(__name__)
Logits = Callable[[Tensor], Tensor]
CLOSE = 1e-3  # of the largest logit: a folded network that is farther off is not used


class _Body(nn.Module):
    """All of a classifier but its head, as a module of its own."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """The features (N, D) of `x` (N, C, H, W) in [0, 1]."""
        return self.model.features(self.model.normalise(x))


def refuse_training(model: nn.Module) -> None:
    """Refuse a network of which any part is in training mode: a vote would depend on the other images of its batch.

    Raises:
        InputError: naming the first such part.
    """
    for name, module in model.named_modules():
        if module.training:
            where = f"its module {name!r}" if name else "it"
            raise InputError(f"smoothness needs a network in evaluation mode, but {where} is training: call eval()")


def inference_network(model: nn.Module, sample: Tensor) -> Logits:
    """`model` as a function images (N, C, H, W) -> logits (N, K), at least float32; `model` itself is left alone.

    Batch norm is folded into the convolutions, and on a CPU tensors stay in oneDNN's own layout. What comes out is
    compared on `sample` (N, C, H, W): where it differs, or a network cannot be changed so, the plain one is used. On a
    GPU the body runs in bfloat16, the head in float32 (bfloat16 logits near 10 lie 0.06 apart, and ties would fall to
    the lower class).

    Raises:
        InputError: the network is in training mode.
    """
    refuse_training(model)
    body = _faster(_body(model), sample)
    head = model.classify if isinstance(model, Classifier) else nn.Identity()

    def logits(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=x.device.type == "cuda"):
            features = body(x)
        features = features.float() if features.dtype == torch.bfloat16 else features
        return head(features)

    return logits


def _body(model: nn.Module) -> nn.Module:
    return _Body(model).eval() if isinstance(model, Classifier) else model


def _faster(body: nn.Module, sample: Tensor) -> nn.Module:
    """The first rewriting of `body` that works, else `body`."""
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in body.modules()):
        for rewrite in (_fold_for_cpu, _fold) if sample.device.type == "cpu" else (_fold,):
            if (rewritten := _attempt(rewrite, body, sample)) is not None:
                return rewritten
    return body


def _attempt(rewrite: Callable[[nn.Module], nn.Module], body: nn.Module, sample: Tensor) -> nn.Module | None:
    """A rewritten copy of `body`; None where that fails or computes something else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of PyTorch about itself
            rewritten = rewrite(body)
        for name, module in body.named_modules():  # under the same names: folding has changed their weights alone
            if isinstance(module, Float32Conv2d):
                to_float32_conv(rewritten.get_submodule(name))
        with torch.inference_mode(), without_noise():  # noise of its own would tell any two calls apart
            wanted, got = body(sample), rewritten(sample)
    except Exception as error:  # noqa: BLE001 - a network that cannot be traced fails in its own way
        log.info("batch norm cannot be folded: %s", error)
        return None
    if (got - wanted).abs().max() <= CLOSE * wanted.abs().max():
        return rewritten
    log.warning("folding batch norm changes what the network computes: it is used as it is")
    return None


class _Tracer(fx.Tracer):
    """Takes noise for one operation: what it draws hangs on its input, which has no size while one traces."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, NoisyReLU) or super().is_leaf_module(m, module_qualified_name)


def _folded(body: nn.Module) -> nn.Module:
    """A copy of `body` as a graph, batch norm folded, in which a `Float32Conv2d` is one like any other."""
    copied = copy.deepcopy(body)
    for module in copied.modules():
        if isinstance(module, Float32Conv2d):
            module.__class__ = nn.Conv2d  # type: ignore[assignment]
    return fuse(fx.GraphModule(copied, _Tracer().trace(copied)), inplace=True, no_trace=True)


def _fold(body: nn.Module) -> nn.Module:
    return _folded(body).to(memory_format=torch.channels_last)


def _fold_for_cpu(body: nn.Module) -> nn.Module:
    return optimize_for_inference(_folded(body), {"conv_bn_fuse": False, "remove_dropout": False}, _Tracer)
