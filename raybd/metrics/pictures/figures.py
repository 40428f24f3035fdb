"""The figures of `Pictures`, of its arrays by name."""

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from raybd.metrics.pictures.embedding import ROLES
from raybd.utils.figures import legend_below, subplots

Array = NDArray[np.float64]
MARKS = (("o", "#b8b8b8"), ("o", "#2166ac"), ("x", "#b2182b"), ("+", "#f4a582"))  # of ROLES
NETWORKS = ("this network", "its clean twin")
SIDE = 1.15  # inches of an image


def drawn(arrays: Mapping[str, Array], title: str) -> dict[str, Figure]:
    """The figures that `arrays` suffice for, by name."""
    needed: dict[str, tuple[Callable[[Mapping[str, Array], str], Figure], tuple[str, ...]]] = {
        "tsne": (draw_roles, ("tsne", "roles")),
        "grad_cam": (draw_cams, ("images", "cams")),
        "spectrum": (draw_spectrum, ("spectrum",)),
        "channels": (draw_channels, ("channels",)),
    }
    return {name: draw(arrays, title) for name, (draw, names) in needed.items() if set(names) <= set(arrays)}


def draw_roles(arrays: Mapping[str, Array], title: str) -> Figure:
    """Training images in the plane of t-SNE, a mark for each role."""
    figure, (plot,) = subplots(f"{title}: features of training images, t-SNE", 5.2, 4.6)
    for role, (name, (mark, colour)) in enumerate(zip(ROLES, MARKS, strict=True)):
        x, y = arrays["tsne"][arrays["roles"] == role].T
        if len(x):
            plot.scatter(x, y, s=14, marker=mark, color=colour, label=f"{name} ({len(x)})", linewidths=1)
    plot.set(xlabel="t-SNE, no unit", ylabel="t-SNE, no unit")
    legend_below(figure, plot)
    return figure


def draw_cams(arrays: Mapping[str, Array], title: str) -> Figure:
    """Images clean and triggered, and over them what their class rests on, in the network and in its twin."""
    images, cams = arrays["images"], arrays["cams"]
    rows, count = [("image", None), *zip(NETWORKS, cams, strict=False)], images.shape[1]
    wide, high = 2 * count * SIDE + 1.3, len(rows) * SIDE + 0.7
    figure = Figure(figsize=(wide, high), dpi=80)
    grid = figure.subplots(len(rows), 2 * count, squeeze=False)
    for row, (name, maps) in enumerate(rows):
        for column in range(2 * count):
            kind, place = divmod(column, count)
            _image(grid[row, column], images[kind, place], None if maps is None else maps[kind, place])
        grid[row, 0].set_ylabel(name, fontsize=8)
    for kind, name in enumerate(("clean", "triggered")):
        grid[0, kind * count].set_title(name, fontsize=9, loc="left")
    figure.suptitle(f"{title}: Grad-CAM", fontsize=9)
    return figure


def _image(plot: Axes, image: Array, cam: Array | None) -> None:
    plot.imshow(image[0] if len(image) == 1 else image.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=255)
    if cam is not None and cam.max() > 0:
        plot.imshow(cam / cam.max(), cmap="inferno", alpha=0.6, vmin=0, vmax=1)
    plot.set(xticks=[], yticks=[])


def draw_spectrum(arrays: Mapping[str, Array], title: str) -> Figure:
    """Amplitudes of the trigger and of clean images, as powers of ten, one scale for both."""
    figure, plots = subplots(f"{title}: mean amplitude by frequency", 7.6, 3.4, 2)
    levels = np.log10(np.maximum(arrays["spectrum"], 1e-3))
    height, width = levels.shape[1:]
    edges = (-(width // 2) - 0.5, width - width // 2 - 0.5, height - height // 2 - 0.5, -(height // 2) - 0.5)
    for plot, values, name in zip(plots, levels, ("trigger", "clean images"), strict=True):
        shown = plot.imshow(values, extent=edges, cmap="viridis", vmin=-1, vmax=max(levels.max(), 0))
        plot.set(title=name, xlabel="waves across", ylabel="waves down")
    figure.subplots_adjust(right=0.86)
    figure.colorbar(shown, cax=figure.add_axes((0.89, 0.17, 0.02, 0.7)), label="log10, grey levels")
    return figure


def draw_channels(arrays: Mapping[str, Array], title: str) -> Figure:
    """How far the trigger moves each channel, the largest first, in the network and in its twin."""
    figure, (plot,) = subplots(f"{title}: channel activation change", 5.2, 3.2)
    for name, values, line in zip(NETWORKS, arrays["channels"], ("-", "--"), strict=False):
        plot.plot(np.arange(1, len(values) + 1), np.sort(values)[::-1], line, label=name)
    plot.set(xlabel="channel of the last maps, by rank", ylabel="mean |change|", ylim=(0, None))
    legend_below(figure, plot)
    return figure
