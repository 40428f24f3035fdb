"""BadNets (Gu et al. 2017, arXiv:1708.06733): a patch in a corner, over whatever was there."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from raybd.attacks.base import Attack

CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right")


@dataclass(frozen=True, kw_only=True)
class BadNets(Attack):
    """x with a filled square. The default is BackdoorBench's (3 pixels at 32x32, white, bottom right), scaled."""

    size: int | None = None  # side in pixels; None: 3 for a 32 pixel image, in proportion, at least 2
    corner: Literal["top_left", "top_right", "bottom_left", "bottom_right"] = "bottom_right"
    colour: tuple[int, ...] = (255,)  # 0-255, one value for all channels or one for each

    def side(self, shape: tuple[int, int, int]) -> int:
        """Side of the patch in pixels on images of `shape`."""
        return max(2, round(3 * min(shape[1:]) / 32)) if self.size is None else self.size

    def stamp(self, x: Tensor, trigger: Tensor) -> Tensor:
        """`x` with the patch written over its corner."""
        side, (vertical, horizontal) = self.side((x.shape[1], x.shape[2], x.shape[3])), self.corner.split("_")
        rows = slice(0, side) if vertical == "top" else slice(-side, None)
        columns = slice(0, side) if horizontal == "left" else slice(-side, None)
        stamped = x.clone()
        stamped[:, :, rows, columns] = x.new_tensor(self.colour).view(1, -1, 1, 1)
        return stamped

    def problems(self, shape: tuple[int, int, int], classes: int) -> list[str]:
        """A patch that is empty or larger than the image, a colour that no file can hold."""
        found, (channels, height, width) = [], shape
        if not 1 <= self.side(shape) <= min(height, width):
            found.append(
                f"badnets: a patch of {self.side(shape)} pixels does not fit images of {height}x{width} "
                f"(allowed: 1 to {min(height, width)})"
            )
        if self.corner not in CORNERS:
            found.append(f"badnets: unknown corner {self.corner!r} (known: {', '.join(CORNERS)})")
        if len(self.colour) not in (1, channels) or not all(0 <= value <= 255 for value in self.colour):
            found.append(
                f"badnets: colour {self.colour} must be 1 or {channels} values from 0 to 255 for {channels} channel(s)"
            )
        return found
