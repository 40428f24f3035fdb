"""The first convolution of a network in float32 under autocast: bfloat16 would merge neighbouring grey levels."""

import torch
from torch import Tensor, nn


class Float32Conv2d(nn.Conv2d):
    """A convolution that autocast leaves in float32; its output is rounded as autocast would.

    bfloat16 keeps 8 bits. Normalised pixels above 2 are a whole grey level apart there, so that neighbouring levels
    become one before the network has seen them, and a trigger of 1/255 with them. A GPU may take TF32 here, which
    keeps 11 bits and all levels.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The convolved `x` (N, C, H, W), in the dtype of the surrounding autocast if there is one."""
        kind = x.device.type
        if kind == "meta" or not torch.is_autocast_enabled(kind):
            return super().forward(x)
        with torch.autocast(kind, enabled=False):
            output = super().forward(x.float())
        return output.to(torch.get_autocast_dtype(kind))


def keep_float32_input(model: nn.Module) -> nn.Module:
    """`model` with its first convolution made a `Float32Conv2d`; weights and names stay."""
    to_float32_conv(next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None))
    return model


def to_float32_conv(module: nn.Module | None) -> None:
    """Make `module` a `Float32Conv2d` if it is a plain one; a user's own subclass is left alone."""
    if type(module) is nn.Conv2d:
        module.__class__ = Float32Conv2d
