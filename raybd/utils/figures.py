"""Figures of a trial: examples of its trigger, training curves, suspected images."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from PIL import Image, ImageDraw

from raybd.types import Images

Caption = tuple[str, str]  # the names of the true class of an image and of the predicted one
TILE = 72  # pixels of one example in the picture
MARGIN, CAPTION = 90, 36  # pixels left of the examples for names of rows, and below each for its classes
LONGEST = 14  # characters of a class's name
WRONG = "#b2182b"  # a prediction that is not the true class
LABEL = 210  # pixels of a row's name in a sheet
ROWS = ("clean", "triggered", "difference")
LEFT, RIGHT, BETWEEN = 0.68, 0.15, 0.8  # inches about plots
LINE, CHARACTER, KEY = 0.19, 0.078, 0.55  # inches of a legend: a line's height, a character's width, a mark's
CURVES = {
    "clean accuracy": ("accuracy/clean", "-", "o"),
    "attack success": ("attack_success", "--", "s"),
    "robust accuracy": ("accuracy/robust", ":", "^"),
}


def draw_examples(clean: Images, triggered: Images, captions: Sequence[Sequence[Caption]], path: Path) -> None:
    """Write a PNG: the same images clean and with the trigger, and where they differ (the largest change is white).

    `captions` are for the clean images and for the triggered ones.
    """
    before, after = clean.x.cpu().numpy(), triggered.x.cpu().numpy()
    change = np.abs(after.astype(int) - before.astype(int))
    change = (change * (255 / max(change.max(), 1))).astype(np.uint8)
    wide, high = max(TILE, _width(captions)) + 6, TILE + CAPTION
    canvas = Image.new("RGB", (MARGIN + len(before) * wide, len(ROWS) * high - CAPTION + 8), "white")
    pen = ImageDraw.Draw(canvas)
    for row, (name, images) in enumerate(zip(ROWS, (before, after, change), strict=True)):
        top = 4 + row * high
        pen.text((6, top + TILE // 2 - 8), name, fill="black", font_size=14)
        for column, image in enumerate(images):
            canvas.paste(_tile(image), (MARGIN + column * wide, top))
        for column, caption in enumerate(captions[row] if row < len(captions) else ()):
            _write(pen, MARGIN + column * wide, top + TILE + 2, caption)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)


def draw_contact_sheet(rows: Sequence[tuple[str, Images, Images]], path: Path, tile: int = TILE) -> None:
    """Write a PNG: in each row its name, some images before, the same after, and what changed, ten times as strong."""
    count = max(len(before) for _, before, _ in rows)
    canvas = Image.new("RGB", (LABEL + 3 * (count * (tile + 4) + 12), len(rows) * (tile + 4) + 28), "white")
    pen = ImageDraw.Draw(canvas)
    for block, title in enumerate(("clean", "with the trigger", "difference x 10")):
        pen.text((LABEL + block * (count * (tile + 4) + 12), 6), title, fill="black", font_size=14)
    for row, (name, before, after) in enumerate(rows):
        top = 28 + row * (tile + 4)
        pen.text((6, top + tile // 2 - 8), name, fill="black", font_size=14)
        clean, stamped = before.x.cpu().numpy(), after.x.cpu().numpy()
        change = (10 * np.abs(stamped.astype(int) - clean.astype(int))).clip(0, 255).astype(np.uint8)
        for block, images in enumerate((clean, stamped, change)):
            for column, image in enumerate(images):
                left = LABEL + block * (count * (tile + 4) + 12) + column * (tile + 4)
                canvas.paste(_tile(image, tile), (left, top))
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)


def draw_suspects(
    images: Images, labels: Sequence[str], suspicion: Sequence[float], poison: Sequence[bool], path: Path
) -> None:
    """Write a PNG: the training images that a defence suspects most, in order, with the labels they came with.

    Poison has a thick frame and a P beside its suspicion.
    """
    columns, step, high = 12, TILE + 24, TILE + CAPTION + 10
    canvas = Image.new("RGB", (8 + columns * step, 8 + -(-len(images) // columns) * high), "white")
    pen = ImageDraw.Draw(canvas)
    for place, image in enumerate(images.x.cpu().numpy()):
        left, top = 8 + place % columns * step, 8 + place // columns * high
        if poison[place]:
            pen.rectangle((left - 4, top - 4, left + TILE + 3, top + TILE + 3), fill=WRONG)
        canvas.paste(_tile(image), (left, top))
        pen.text((left, top + TILE + 5), _shown(labels[place]), fill="black", font_size=12)
        caption = f"{suspicion[place]:.2f}{' P' if poison[place] else ''}"
        pen.text((left, top + TILE + 20), caption, fill="black", font_size=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)


class PlainLogFormatter(LogFormatter):
    """0.01 and 5: shorter than the usual powers of ten, and sooner drawn."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """The label of the tick at `x`, empty where there is no room for it."""
        return f"{x:g}" if super().__call__(x, pos) else ""


def training_curves(history: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Accuracies at the probes on the left, training loss of every epoch on the right."""
    figure, (left, right) = subplots(title, 9, 3.2, 2)
    for label, (name, line, mark) in CURVES.items():
        points = [(entry["epoch"], entry["metrics"][name]) for entry in history if name in entry["metrics"]]
        left.plot(*zip(*points, strict=True), line, marker=mark, markersize=4, label=label)
    left.set(xlabel="epoch", ylabel="share of test images", ylim=(-0.03, 1.03))
    right.plot([entry["epoch"] for entry in history], [entry["metrics"]["loss/train"] for entry in history])
    right.set(xlabel="epoch", ylabel="training loss (nats)", yscale="log")
    for set_formatter in (right.yaxis.set_major_formatter, right.yaxis.set_minor_formatter):
        set_formatter(PlainLogFormatter())
    legend_below(figure, left)
    return figure


def legend_below(figure: Figure, *named: Axes, title: str = "") -> None:
    """The names of what is drawn in the axes `named`, in a strip that is added below all plots, where no data are."""
    pairs = [pair for axes in named for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    handles, labels = [handle for handle, _ in pairs], [label for _, label in pairs]
    wide, high = figure.get_size_inches()
    longest = max(map(len, labels), default=0)
    columns = min(len(labels), max(1, int((wide - LEFT) / (CHARACTER * longest + KEY))))
    strip = LINE * (-(-len(labels) // max(1, columns)) + bool(title)) + 0.06
    figure.set_figheight(high + strip)
    for plot in figure.axes:
        box = plot.get_position()
        bottom, height = box.y0 * high + strip, box.height * high
        plot.set_position((box.x0, bottom / (high + strip), box.width, height / (high + strip)))
    figure.legend(
        handles,
        labels,
        loc="lower center",
        ncols=columns,
        title=title or None,
        fontsize="small",
        title_fontsize="small",
        frameon=False,
        labelspacing=0.3,
        borderaxespad=0.2,
        borderpad=0.1,
    )


def subplots(
    title: str, width: float, height: float, columns: int = 1, above: float = 0.4, below: float = 0.55
) -> tuple[Figure, list[Axes]]:
    """A figure of so many inches with plots side by side, and so many of them `above` and `below` the plots.

    Margins are fixed: to find them, matplotlib would draw everything twice.
    """
    figure = Figure(figsize=(width, height), dpi=80)
    edges = {"left": LEFT / width, "right": 1 - RIGHT / width, "bottom": below / height, "top": 1 - above / height}
    plot = (width - LEFT - RIGHT - (columns - 1) * BETWEEN) / columns
    axes = figure.subplots(1, columns, squeeze=False, gridspec_kw=edges | {"wspace": BETWEEN / plot})
    figure.suptitle(title, fontsize=9, y=0.99, wrap=True)
    return figure, list(axes[0])


def _tile(image: np.ndarray, size: int = TILE) -> Image.Image:
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    return Image.fromarray(pixels).convert("RGB").resize((size, size), Image.Resampling.NEAREST)


def _shown(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def _width(captions: Sequence[Sequence[Caption]]) -> int:
    """Pixels of the widest line."""
    pen = ImageDraw.Draw(Image.new("L", (1, 1)))
    lines = [f"pred. {_shown(name)}" for row in captions for pair in row for name in pair]
    return max((math.ceil(pen.textlength(line, font_size=12)) for line in lines), default=0)


def _write(pen: ImageDraw.ImageDraw, left: int, top: int, caption: Caption) -> None:
    """The true class, and below it the predicted one, in red where it is another."""
    true, predicted = caption
    pen.text((left, top), f"true {_shown(true)}", fill="black", font_size=12)
    pen.text((left, top + 15), f"pred. {_shown(predicted)}", fill="black" if true == predicted else WRONG, font_size=12)
