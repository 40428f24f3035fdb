"""Residual networks of basic blocks with the stem for small images: He et al., arXiv 1512.03385 and 1603.05027."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from raybd.models.base import Classifier, Shape, require, scale_channels
from raybd.models.noise import activation

CHANNELS = (64, 128, 256, 512)  # of the four stages; each later one halves the image's side
STAGES = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}  # depth: blocks of each stage
SMALLEST = 8  # pixels: halved three times, one is left


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, ReLU last: (N, before, H, W) -> (N, after, H/stride, W/stride).

    `noise` is added after both ReLUs.

    Where the shape changes, the shortcut is a 1x1 convolution with batch norm (arXiv 1512.03385, option B).
    """

    def __init__(self, before: int, after: int, stride: int, noise: float = 0.0) -> None:
        super().__init__()
        self.conv1, self.bn1 = convolution(3, before, after, stride), nn.BatchNorm2d(after)
        self.relu1 = activation(noise)
        self.conv2, self.bn2 = convolution(3, after, after), nn.BatchNorm2d(after)
        self.relu2 = activation(noise)
        self.shortcut: nn.Module = nn.Identity()
        if before != after or stride != 1:
            self.shortcut = nn.Sequential(convolution(1, before, after, stride), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """The activated sum of both paths."""
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu2(residual + self.shortcut(x))
        return out


class PreActBlock(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions, nothing after the sum (arXiv 1603.05027).

    In the first block of a net, and where the shape changes, both paths read the activated input; the
    shortcut of a changed shape is a bare 1x1 convolution. `noise` is added after both ReLUs, but for the first of a
    net's first block, which acts on the stem.
    """

    def __init__(self, before: int, after: int, stride: int, first: bool = False, noise: float = 0.0) -> None:
        super().__init__()
        self.bn1, self.relu1 = nn.BatchNorm2d(before), activation(0.0 if first else noise)
        self.conv1 = convolution(3, before, after, stride)
        self.bn2, self.relu2 = nn.BatchNorm2d(after), activation(noise)
        self.conv2 = convolution(3, after, after)
        changes = before != after or stride != 1
        self.shared = first or changes
        self.shortcut = convolution(1, before, after, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """The bare sum of both paths: (N, before, H, W) -> (N, after, H/stride, W/stride)."""
        active = self.relu1(self.bn1(x))
        residual = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        out: Tensor = residual + self.shortcut(active if self.shared else x)
        return out


class ResNet(Classifier):
    """Stem, residual blocks, end; then the average of each channel, and the head.

    Every convolution is drawn from N(0, 2 / (k k after)) (arXiv 1502.01852), the rest as torch does.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        stem: nn.Module,
        blocks: nn.Sequential,
        end: nn.Module,
        head: nn.Linear,
        noise: float,
    ) -> None:
        super().__init__(mean, std, noise)
        self.stem, self.blocks, self.end, self.head = stem, blocks, end, head
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> Tensor:
        """The last block of the normalised `x` (N, C, H, W), averaged over its pixels: (N, D)."""
        pooled: Tensor = self.end(self.blocks(self.stem(x))).mean((2, 3))
        return pooled


def convolution(size: int, before: int, after: int, stride: int = 1) -> nn.Conv2d:
    """A `size` x `size` convolution without bias, padded so that stride 1 keeps the image's side."""
    return nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False)


def block_shapes(name: str, shape: Shape, width: float, depth: int) -> list[tuple[int, int, int]]:
    """Channels before, channels after and stride of every residual block.

    Raises:
        InputError: the net `name` cannot be this wide, this deep, or take images of this shape.
    """
    require(
        (0 < width < math.inf, f"width of {name} must be positive, got {width}"),
        (depth in STAGES, f"depth of {name} must be one of {list(STAGES)}, got {depth}"),
        (
            min(shape[1:]) >= SMALLEST,
            f"{name} needs images of {SMALLEST}x{SMALLEST} or more, got {shape[1]}x{shape[2]}",
        ),
    )
    steps, before = [], scale_channels(CHANNELS[0], width)
    for stage, count in enumerate(STAGES[depth]):
        after = scale_channels(CHANNELS[stage], width)
        for position in range(count):
            steps.append((before, after, 2 if stage and position == 0 else 1))
            before = after
    return steps


def resnet18(
    shape: Shape,
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    width: float = 1.0,
    depth: int = 18,
    noise: float = 0.0,
) -> Classifier:
    """ResNet of `depth` 10, 18 or 34 and 64, 128, 256, 512 channels times `width` (arXiv 1512.03385).

    The stem is a 3x3 convolution of stride 1 with no max-pool, as all use for CIFAR. `noise` is added after every
    ReLU but the stem's, and before the head.
    """
    steps = block_shapes("resnet18", shape, width, depth)
    first, last = steps[0][0], steps[-1][1]
    stem = nn.Sequential(convolution(3, shape[0], first), nn.BatchNorm2d(first), nn.ReLU(inplace=True))
    blocks = nn.Sequential(*(BasicBlock(*step, noise=noise) for step in steps))
    return ResNet(mean, std, stem, blocks, nn.Identity(), nn.Linear(last, classes), noise)


def preact_resnet18(
    shape: Shape,
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    width: float = 1.0,
    depth: int = 18,
    noise: float = 0.0,
) -> Classifier:
    """The same with pre-activation blocks (arXiv 1603.05027).

    As in the paper, batch norm and ReLU end the last block before pooling, and the first block's two
    paths share the first activation; BackdoorBench's PreActResNet18 does neither. `noise` is added after every
    ReLU but the first, which acts on the stem, and before the head: as many sites as `resnet18` has.
    """
    steps = block_shapes("preact_resnet18", shape, width, depth)
    first, last = steps[0][0], steps[-1][1]
    later = (PreActBlock(*step, noise=noise) for step in steps[1:])
    blocks = nn.Sequential(PreActBlock(*steps[0], first=True, noise=noise), *later)
    end = nn.Sequential(nn.BatchNorm2d(last), activation(noise))
    return ResNet(mean, std, convolution(3, shape[0], first), blocks, end, nn.Linear(last, classes), noise)
