"""Image files decoded into arrays, a few at a time, whatever their number."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from raybd.data.reader import Array, shorten
from raybd.data.target import Bytes, Target, in_threads, square, to_array
from raybd.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp")
GREY = ("1", "L", "LA")  # modes, beside those of 16 bits
UNREADABLE = (OSError, SyntaxError, ValueError)  # what Pillow's decoders say, beside its DecompressionBombError
Tree = dict[str, list[Path]]  # class name to its image files, both sorted


class Head(NamedTuple):
    """What an image file says of itself before it is decoded."""

    grey: bool
    size: tuple[int, int]  # width, height


def is_image(path: Path) -> bool:
    """Whether `path` is called like an image that is not hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def decode_splits(where: Path, files: Sequence[Path], test: Array, target: Target) -> tuple[Bytes, Bytes]:
    """The images of the `files` that are not in the mask `test` (N,), and of those that are: (n, C, H, W) uint8.

    Raises:
        InputError: images are broken, or of different sizes where `target` has none.
    """
    heads = in_threads(_head, files)
    known = [head for head in heads if head is not None]
    if len(known) == len(files):
        _check_sizes(where, files, known, target)
    shape = _shape(known, target) if known else (1, 1, 1)
    arrays = [target.empty((int(mask.sum()), *shape)) for mask in (~test, test)]
    rows = np.where(test, np.cumsum(test), np.cumsum(~test)) - 1

    def place(number: int) -> bool:
        return heads[number] is not None and _decode(files[number], arrays[int(test[number])][rows[number]], target)

    fine = in_threads(place, range(len(files)))
    if broken := [path.relative_to(where) for path, good in zip(files, fine, strict=True) if not good]:
        raise InputError(f"folder:{where}: {len(broken)} broken images: {shorten(broken, most=5)}")
    return arrays[0], arrays[1]


def _head(path: Path) -> Head | None:
    """None of what is no image."""
    from PIL import Image

    if not path.is_file():  # a link to nothing, or a pipe, which would be waited for
        return None
    try:
        with Image.open(path) as image:
            return Head(image.mode in GREY or image.mode.startswith("I"), image.size)
    except (*UNREADABLE, Image.DecompressionBombError):
        return None


def _shape(heads: Sequence[Head], target: Target) -> tuple[int, int, int]:
    width, height = (target.side, target.side) if target.side else heads[0].size
    return 1 if all(head.grey for head in heads) else 3, height, width


def _check_sizes(where: Path, files: Sequence[Path], heads: Sequence[Head], target: Target) -> None:
    first = heads[0].size
    for path, head in zip(files, heads, strict=True):
        if head.size != first and not target.side:
            one, other = (f"{w}x{h}" for w, h in (first, head.size))
            raise InputError(
                f"folder:{where}: images of different sizes: {files[0].relative_to(where)} is {one}, "
                f"{path.relative_to(where)} is {other}; give them all one size (--resize 64)"
            )


def _decode(path: Path, out: Bytes, target: Target) -> bool:
    """Write the image of `path` into `out` (C, H, W); whether it could be decoded."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            plain = _eight_bits(image)
            sized = square(plain, target.side) if target.side and plain.size != (target.side,) * 2 else plain
            pixels = to_array(sized, len(out))
    except (*UNREADABLE, Image.DecompressionBombError):
        return False
    if pixels.shape != out.shape:  # beside a broken image, for which nobody has looked at the sizes
        return True
    out[:] = pixels
    return True


def _eight_bits(image: "Image") -> "Image":
    """`image` in mode L where it is grey, of 16 bits the upper 8; else in RGB."""
    from PIL.Image import fromarray

    if image.mode.startswith("I"):
        return fromarray((np.array(image, dtype=np.int64) >> 8).clip(0, 255).astype(np.uint8))
    return image.convert("L" if image.mode in GREY else "RGB")
