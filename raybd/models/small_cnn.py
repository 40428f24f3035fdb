"""A small convolutional net, for images of 8x8 to 64x64 and for sweeps on a CPU."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from raybd.models.base import Classifier, Shape, require, scale_channels
from raybd.models.noise import activation

BASE = 16  # channels of the first block; each later block has twice those before it
DEPTHS = range(2, 6)
SMALLEST = 4  # pixels: a smaller image cannot be pooled even once


class SmallCnn(Classifier):
    """Blocks of 3x3 convolution, batch norm and ReLU; 2x2 max-pooling between; the average of each channel."""

    def __init__(
        self,
        shape: Shape,
        classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        channels: Sequence[int],
        noise: float,
    ) -> None:
        super().__init__(mean, std, noise)
        self.blocks = nn.Sequential()
        before, side = shape[0], min(shape[1:])
        for position, after in enumerate(channels):
            if position and side >= SMALLEST:
                self.blocks.append(nn.MaxPool2d(2))
                side //= 2
            self.blocks.append(block(before, after, noise))
            before = after
        self.head = nn.Linear(before, classes)

    def features(self, x: Tensor) -> Tensor:
        """The last block of the normalised `x` (N, C, H, W), averaged over its pixels: (N, D)."""
        pooled: Tensor = self.blocks(x).mean((2, 3))
        return pooled


def block(before: int, after: int, noise: float) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU, noise: (N, before, H, W) -> (N, after, H, W)."""
    convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), activation(noise))


def small_cnn(
    shape: Shape,
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    width: float = 1.0,
    depth: int = 3,
    noise: float = 0.0,
) -> Classifier:
    """`depth` blocks of 16, 32, 64, ... channels times `width`; weights as torch draws them by default.

    It pools between two blocks while at least 4 pixels are left on the shorter side. `noise` is added after every
    ReLU and before the head.
    """
    require(
        (0 < width < math.inf, f"width of small_cnn must be positive, got {width}"),
        (depth in DEPTHS, f"depth of small_cnn must be one of {list(DEPTHS)}, got {depth}"),
        (
            min(shape[1:]) >= SMALLEST,
            f"small_cnn needs images of {SMALLEST}x{SMALLEST} or more, got {shape[1]}x{shape[2]}",
        ),
    )
    channels = [scale_channels(BASE * 2**position, width) for position in range(depth)]
    return SmallCnn(shape, classes, mean, std, channels, noise)
