"""Residual nets of basic blocks with the stem for small images: He et al., arXiv 1512.03385 and 1603.05027."""

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from raybd.models.base import Classifier, Shape, require, scaled

CHANNELS = (64, 128, 256, 512)  # of the four stages; each later one halves the image's side
DEPTHS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}  # layers: blocks of each stage
SMALLEST = 8  # pixels: halved three times, one is left


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, ReLU last: (N, before, H, W) -> (N, after, H/stride, W/stride).

    Where the shape changes the shortcut is a 1x1 convolution with batch norm (arXiv 1512.03385, option B).
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = convolution(3, before, after, stride), nn.BatchNorm2d(after)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = convolution(3, after, after), nn.BatchNorm2d(after)
        self.relu2 = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if before != after or stride != 1:
            self.shortcut = nn.Sequential(convolution(1, before, after, stride), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """ReLU(F(x) + shortcut(x))."""
        residual = self.relu1(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        out: Tensor = self.relu2(residual + self.shortcut(x))
        return out


class PreActBlock(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions; nothing after the sum (arXiv 1603.05027).

    Where the shape changes, the shortcut is a bare 1x1 convolution of the activated input.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.relu1 = nn.BatchNorm2d(before), nn.ReLU(inplace=True)
        self.conv1 = convolution(3, before, after, stride)
        self.bn2, self.relu2 = nn.BatchNorm2d(after), nn.ReLU(inplace=True)
        self.conv2 = convolution(3, after, after)
        changes = before != after or stride != 1
        self.shortcut = convolution(1, before, after, stride) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """F(x) + shortcut(x)."""
        active = self.relu1(self.bn1(x))
        residual: Tensor = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        return residual + (x if self.shortcut is None else self.shortcut(active))


class ResNet(Classifier):
    """A stem, four stages of blocks, an end; then the average of each channel, and the head.

    `stem` and `end` are what differs between the two papers: where batch norm and ReLU stand.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], stem: nn.Module, stages: nn.Module, end: nn.Module
    ) -> None:
        super().__init__(mean, std)
        self.stem, self.stages, self.end = stem, stages, end

    def features(self, x: Tensor) -> Tensor:
        """The last stage of the normalised `x` (N, C, H, W), averaged over its pixels: (N, D)."""
        pooled: Tensor = self.end(self.stages(self.stem(x))).mean((2, 3))
        return pooled


def resnet18(
    shape: Shape,
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    width: float = 1.0,
    depth: int = 18,
) -> Classifier:
    """ResNet of 10, 18 or 34 layers (arXiv 1512.03385): 3x3 stem of stride 1, no max-pooling."""
    channels = _channels(shape, width, depth)
    stem = nn.Sequential(
        convolution(3, shape[0], channels[0]), nn.BatchNorm2d(channels[0]), nn.ReLU(inplace=True)
    )
    model = ResNet(mean, std, stem, _stages(BasicBlock, channels, depth), nn.Identity())
    return _finished(model, channels[-1], classes)


def preact_resnet18(
    shape: Shape,
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    width: float = 1.0,
    depth: int = 18,
) -> Classifier:
    """Pre-activation ResNet of 10, 18 or 34 layers (arXiv 1603.05027), with the same stem.

    As in the paper a last batch norm and ReLU follow the stages; BackdoorBench's net of this name has neither.
    """
    channels = _channels(shape, width, depth)
    end = nn.Sequential(nn.BatchNorm2d(channels[-1]), nn.ReLU(inplace=True))
    stem = convolution(3, shape[0], channels[0])
    model = ResNet(mean, std, stem, _stages(PreActBlock, channels, depth), end)
    return _finished(model, channels[-1], classes)


def convolution(kernel: int, before: int, after: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the image's side at stride 1."""
    return nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False)


def _channels(shape: Shape, width: float, depth: int) -> list[int]:
    require(
        (0 < width < math.inf, f"width of a ResNet must be positive, got {width}"),
        (depth in DEPTHS, f"depth of a ResNet must be one of {list(DEPTHS)}, got {depth}"),
        (
            min(shape[1:]) >= SMALLEST,
            f"a ResNet needs images of {SMALLEST}x{SMALLEST} or more, got {shape[1]}x{shape[2]}",
        ),
    )
    return [scaled(channels, width) for channels in CHANNELS]


def _stages(
    block: Callable[[int, int, int], nn.Module], channels: Sequence[int], depth: int
) -> nn.Sequential:
    stages, before = nn.Sequential(), channels[0]
    for number, (after, blocks) in enumerate(zip(channels, DEPTHS[depth], strict=True)):
        for position in range(blocks):
            stages.append(block(before, after, 2 if number and not position else 1))
            before = after
    return stages


def _finished(model: ResNet, features: int, classes: int) -> ResNet:
    """`model` with its head; convolutions start as in He et al. (arXiv 1502.01852)."""
    model.head = nn.Linear(features, classes)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model
