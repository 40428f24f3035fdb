"""How a set of cells fills a grid: which cell is farthest from it, and what may lie between unseen.

Distances are in steps of the grid, the same on each axis: a surface through few cells knows nothing of what lies
between them, however sure its length scales make it. Taking the farthest cell again and again keeps the largest gap
within a factor of two of the smallest possible one (Gonzalez, Clustering to minimize the maximum intercluster distance,
1985).
"""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from analysis.search_grid import Candidate, Grid

Floats = NDArray[np.float64]
FAR = 1e9  # the distance to a cell of a group of which none was asked for


def gaps(grid: Grid, candidates: Sequence[Candidate], asked: Collection[Candidate]) -> Floats:
    """(m,) squared distance of each candidate from the nearest cell `asked` for in its group."""
    distances = np.full(len(candidates), FAR)
    for group in {candidate.group for candidate in candidates}:
        own = [i for i, candidate in enumerate(candidates) if candidate.group == group]
        places = grid.steps([candidates[i] for i in own])
        for place in grid.steps([one for one in asked if one.group == group]):
            distances[own] = np.minimum(distances[own], ((places - place) ** 2).sum(1))
    return distances


def farthest(grid: Grid, candidates: Sequence[Candidate], asked: Collection[Candidate], unsure: Floats) -> int:
    """Index of the candidate farthest from all `asked` for; of those as far the most `unsure` (m,), then the first."""
    distances = gaps(grid, candidates, asked)
    return int(np.where(distances == distances.max(), unsure, -np.inf).argmax())


def is_filled(grid: Grid, asked: Collection[Candidate]) -> bool:
    """Whether every cell of the grid was asked for or lies one step from one that was."""
    return bool(gaps(grid, list(grid.costs), asked).max() <= 1)


def seen_blocks(grid: Grid, measured: Collection[Candidate]) -> list[int]:
    """(d,) the smallest block of cells, a side on each axis, that holds a measured one wherever it lies in any group.

    An island or hole that holds no such block may have been missed. The block is a cube of steps, cut to the axes.
    """
    sizes = np.array([len(values) for values in grid.axes.values()])
    fields = np.zeros((len(grid.groups), *sizes), dtype=bool)
    for number, group in enumerate(grid.groups):
        fields[(number, *grid.steps([one for one in measured if one.group == group]).T)] = True
    for side in range(1, int(sizes.max()) + 1):
        block = np.minimum(side, sizes)
        windows = sliding_window_view(fields, tuple(block), axis=tuple(range(1, fields.ndim)))
        if windows.any(axis=tuple(range(fields.ndim, windows.ndim))).all():
            return [int(one) for one in block]
    return [int(one) + 1 for one in sizes]  # a group holds none at all


def describe_coverage(grid: Grid, measured: Collection[Candidate]) -> str:
    """What was measured of the grid, and which islands and holes may have been missed."""
    beside = int((gaps(grid, list(grid.costs), measured) <= 1).sum()) - len(measured)
    block = " x ".join(f"{side} ({name})" for side, name in zip(seen_blocks(grid, measured), grid.axes, strict=True))
    return (
        f"{len(measured)} of {len(grid.costs)} cells are measured, {beside} more lie a step from these; every block of "
        f"{block} cells holds a measured one: an island or hole that holds no such block may have been missed"
    )
