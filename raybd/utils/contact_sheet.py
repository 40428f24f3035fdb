"""Contact sheet: images in rows, each with its lines of text below."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

TILE, COLUMNS, LINE = 96, 8, 15  # pixels of an image, images of a row, pixels of a line of text
GAP = 44  # pixels between two images, into which their names may reach
FITTING = 22  # characters of a line
BACKGROUND, INK = "white", "black"


def draw_sheet(x: Tensor, captions: Sequence[Sequence[str]], path: Path) -> None:
    """Write a PNG of the images `x` (n, C, H, W) uint8, in order, with the lines of each of `captions` below it."""
    lines = max((len(caption) for caption in captions), default=0)
    wide, high = TILE + GAP, TILE + LINE * lines + 12
    rows = -(-len(captions) // COLUMNS)
    canvas = Image.new("RGB", (8 + COLUMNS * wide, 8 + rows * high), BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    for place, (image, caption) in enumerate(zip(x.cpu().numpy(), captions, strict=True)):
        left, top = 8 + place % COLUMNS * wide, 8 + place // COLUMNS * high
        pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        tile = Image.fromarray(pixels).convert("RGB").resize((TILE, TILE), Image.Resampling.NEAREST)
        canvas.paste(tile, (left, top))
        for row, line in enumerate(caption):
            pen.text((left, top + TILE + 2 + row * LINE), _end_of(line), fill=INK, font_size=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)


def _end_of(line: str) -> str:
    """The end of a long line: that of a file's path tells more than its beginning."""
    return line if len(line) <= FITTING else f"…{line[-FITTING + 1 :]}"
