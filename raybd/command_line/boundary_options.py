"""The options of `sweeps/boundary.py`: a grid, and an active search over it."""

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Gt

from raybd.command_line.groups import OptionGroup
from raybd.command_line.options import SweepOptions
from raybd.utils.constraints import Count


@dataclass(frozen=True, kw_only=True)
class ActiveSearchOptions(OptionGroup):
    """The search."""

    along: str = "poison_rate"
    """Axis, by its full name, along which the boundary lies and its band is measured."""
    budget: Count | None = None
    """Most trials of the search, its clean twins among them; none: a quarter of the grid's."""
    batch: Count = 8
    """Cells a round."""
    most_seeds: Count | None = None
    """A cell whose seeds disagree gets --seeds more, up to so many; none: twice --seeds."""
    stop_decades: Annotated[float, Gt(0)] = 0.1
    """The search ends once the 90 % band of the boundary is nowhere wider."""
    compare: bool = False
    """Run the whole grid too, and tell how far its boundary is from that of the search."""


@dataclass(frozen=True, kw_only=True)
class BoundaryOptions(SweepOptions):
    """Options of `sweeps/boundary.py`: the axes of every sweep are the grid, of whose cells the search measures those
    that it needs."""

    name: str = "boundary"
    search: ActiveSearchOptions = field(default_factory=ActiveSearchOptions)

    def problems(self) -> list[str]:
        """Those of every sweep, and what the search needs of them."""
        found, seeds, most = super().problems(), self.training.seeds, self.search.most_seeds
        if most is not None and most < seeds:
            found.append(f"--most-seeds must be at least {seeds}, as many as --seeds, got {most}")
        if self.training.patience:
            found.append("--patience must be 0: a trial that stops early for its loss would bias attack success")
        if seeds < 2:
            found.append("--seeds must be at least 2: one seed does not show how far seeds spread")
        if not any(self.attack.poison_rates):
            found.append("--poison-rates must have one above 0")
        return found
