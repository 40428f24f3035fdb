"""BadNets (Gu et al. 2017, arXiv:1708.06733): a patch over whatever was there."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from raybd.attacks.base import Attack, Presets, Shape, Trigger
from raybd.attacks.patterns import colour_problems, fit_colour, fit_image, scaled

Corner = Literal["top_left", "top_right", "bottom_left", "bottom_right"]
Pattern = Literal["solid", "toolbox", "vibe", "random", "per_class"]
TOOLBOX = ((0, 0, 1), (0, 1, 0), (1, 0, 1))  # 1: the colour, 0: black
VIBE = (((180, 249, 112), (155, 50, 126)), ((234, 82, 68), (187, 201, 219)))  # the patch that ASD and DBD use too


@dataclass(frozen=True, kw_only=True)
class BadNets(Attack):
    """x with a square patch. The default is BackdoorBench's (3 pixels at 32x32, white, bottom right), scaled.

    Patterns: solid; toolbox, four of nine cells in the colour and five black; vibe, four coloured cells; random,
    uniform noise drawn once; per_class, one such noise patch for each true class (arXiv:2106.07214).
    """

    size: int | None = None  # side in pixels; None: 3 for a 32 pixel image, in proportion, at least 2
    position: Corner | tuple[int, int] = "bottom_right"  # or row and column of the patch's top left pixel
    pattern: Pattern = "solid"  # see above
    colour: tuple[int, ...] = (255,)  # 0-255, one value for all channels or one for each

    on_bytes: ClassVar[bool] = True
    presets: ClassVar[Presets] = {
        "backdoorbench": {},
        "toolbox": {"pattern": "toolbox"},
        "vibe": {"pattern": "vibe", "position": (4, 4), "size": 2},
        "information_bottleneck": {"position": "top_left", "colour": (255, 0, 0), "size": 5},
        "learning_curves": {"pattern": "per_class"},
        "top_left": {"position": "top_left"},
    }

    def side(self, shape: Shape) -> int:
        """Side of the patch in pixels on images of `shape`."""
        return scaled(3, min(shape[1:]), least=2) if self.size is None else self.size

    def draw(self, shape: Shape, classes: int, rng: torch.Generator) -> Tensor:
        """The patch: (1, C, side, side) uint8, or one for each class."""
        side, channels = self.side(shape), shape[0]
        if self.pattern in ("random", "per_class"):
            count = classes if self.pattern == "per_class" else 1
            return torch.randint(0, 256, (count, channels, side, side), generator=rng, dtype=torch.uint8)
        if self.pattern == "vibe":
            cells = fit_image(torch.tensor(VIBE).permute(2, 0, 1).float(), channels)
        else:
            mask = torch.tensor(TOOLBOX if self.pattern == "toolbox" else ((1,),))
            cells = fit_colour(self.colour, channels).view(-1, 1, 1) * mask
        nearest = torch.nn.functional.interpolate(cells[None], size=(side, side), mode="nearest")
        return nearest.round().to(torch.uint8)

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` with the patch written over its place."""
        patch, side = trigger.pattern, trigger.pattern.shape[-1]
        row, column = self._place(x.shape[2], x.shape[3], side)
        x[:, :, row : row + side, column : column + side] = patch[trigger.true] if len(patch) > 1 else patch
        return x

    def problems(self, shape: Shape, classes: int) -> list[str]:
        """A patch that is empty or leaves the image, a colour that no file can hold."""
        channels, height, width = shape
        side = self.side(shape)
        found = colour_problems(self.colour, channels)
        if not 1 <= side <= min(height, width):
            found.append(
                f"a patch of {side} pixels does not fit images of {height}x{width} (allowed: 1 to {min(height, width)})"
            )
        elif isinstance(self.position, tuple):
            row, column = self.position
            if not (0 <= row <= height - side and 0 <= column <= width - side):
                found.append(f"a patch of {side} pixels at {row}, {column} leaves images of {height}x{width}")
        return found

    def _place(self, height: int, width: int, side: int) -> tuple[int, int]:
        if isinstance(self.position, tuple):
            return self.position
        vertical, horizontal = self.position.split("_")
        return (0 if vertical == "top" else height - side), (0 if horizontal == "left" else width - side)
