"""The first layers of torchvision's networks for small images: how many pixels become one position of the first map.

Published for images of 224 pixels: 16 in vit_b_16, 4 in ConvNeXt and, by a stride and a pooling, in DenseNet. Of images
of 32 pixels they leave a map of 2x2 positions, or 8x8 that three more reductions make one.
"""

import torch
from torch import nn

from raybd.models.base import require

TRANSFORMERS = "vit_"  # take images of one size, for which they have positions
STEMS = (1, 2, 4)  # patches that a DenseNet can begin with


def has_patches(name: str) -> bool:
    """Whether the first layers of torchvision's network `name` are known."""
    return name.startswith((TRANSFORMERS, "convnext", "densenet"))


def image_size(name: str, side: int, patch: int) -> int:
    """What torchvision's transformer `name` calls the size of images that have side / patch of its own patches a side.

    Raises:
        InputError: patches of so many pixels do not fill images of `side` pixels.
    """
    require((side % patch == 0, f"patches of {patch} pixels do not fill images of {side}x{side}"))
    from torchvision import models

    with torch.device("meta"):
        own = models.get_model(name, weights=None).patch_size
    return side // patch * int(own)


def set_patches(name: str, body: nn.Module, patch: int, side: int) -> None:
    """Let `patch` x `patch` pixels become one position of the first map of `body`, torchvision's network `name`.

    A transformer, made for the `image_size` of images of `side` pixels, takes these. A DenseNet begins with a 3x3
    convolution for patches of 1 pixel, with its own 7x7 of stride 2 for 2, both without its pooling.

    Raises:
        InputError: the network cannot have such patches.
    """
    if name.startswith("densenet"):
        require((patch in STEMS, f"patches of torchvision:{name} are 1, 2 or 4 pixels, got {patch}"))
        _set_stem(body, patch)
    elif name.startswith(TRANSFORMERS):
        _cut(body, "conv_proj", patch, std=(3 * patch**2) ** -0.5)  # as torchvision draws it
        body.patch_size, body.image_size = patch, side  # type: ignore[assignment]  # its forward pass asks for them
    else:
        _cut(body, "features.0.0", patch, std=0.02)


def _cut(body: nn.Module, place: str, patch: int, std: float) -> None:
    """A convolution of `patch` pixels, of stride `patch`, at `place`, with normal weights of deviation `std`."""
    old = body.get_submodule(place)
    assert isinstance(old, nn.Conv2d)
    made = nn.Conv2d(old.in_channels, old.out_channels, patch, stride=patch)
    assert made.bias is not None
    nn.init.trunc_normal_(made.weight, std=std)
    nn.init.zeros_(made.bias)
    body.set_submodule(place, made)


def _set_stem(body: nn.Module, patch: int) -> None:
    """The first convolution and the pooling of a DenseNet for patches of 1 or 2 pixels; 4 is its own."""
    if patch == 1:
        old = body.get_submodule("features.conv0")
        assert isinstance(old, nn.Conv2d)
        made = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(made.weight)  # as torchvision draws it
        body.set_submodule("features.conv0", made)
    if patch < max(STEMS):
        body.set_submodule("features.pool0", nn.Identity())
