"""The first convolution of a network, which must see single grey levels whatever the precision."""

import torch
from torch import Tensor, nn


class FirstConvolution(nn.Conv2d):
    """A convolution that autocast leaves in float32; what it returns is rounded as autocast would.

    bfloat16 keeps 8 bits. Normalised pixels above 2 are a whole grey level apart there, so that neighbouring levels
    become one before the network has seen them, and a trigger of 1/255 with them. A GPU may take TF32 here, which
    keeps 11 bits and all levels.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The convolved `x` (N, C, H, W), in the type of the autocast around if there is one."""
        kind = x.device.type
        if kind == "meta" or not torch.is_autocast_enabled(kind):
            return super().forward(x)
        with torch.autocast(kind, enabled=False):
            seen = super().forward(x.float())
        return seen.to(torch.get_autocast_dtype(kind))


def see_grey_levels(model: nn.Module) -> nn.Module:
    """`model` with its first convolution made a `FirstConvolution`, weights and names as they were."""
    make_first(next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None))
    return model


def make_first(module: nn.Module | None) -> None:
    """Make `module` a `FirstConvolution` if it is a plain one; a class of somebody's own knows what it does."""
    if type(module) is nn.Conv2d:
        module.__class__ = FirstConvolution
