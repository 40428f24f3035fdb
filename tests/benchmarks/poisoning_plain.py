"""Each trigger on one image of 32x32x3 at a time, in NumPy or torch, after its paper and as toolkits do it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import fft
from torch import Tensor

from raybd.attacks import Attack

Array = np.ndarray[Any, np.dtype[Any]]
Stamp = Callable[[Array, int, int], Array]  # (image (32, 32, 3) uint8, true class, wanted class) -> image

YCRCB = np.array([[0.299, 0.587, 0.114], [0.4998, -0.4185, -0.0813], [-0.1686, -0.3311, 0.4997]])  # rows Y, Cr, Cb
YUV = np.array([[0.299, 0.587, 0.114], [-0.1471, -0.2888, 0.4359], [0.6148, -0.5148, -0.1]])  # rows Y, U, V
CODE = (6, 5)  # rows and columns of the cells of a universal trigger
MARK = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1]], np.uint8) * 255


def plain(name: str, attack: Attack, pattern: Tensor) -> Stamp:
    """`attack` as its toolkit would stamp a test image; `pattern` is what was drawn at random, the same for all."""
    return STAMPS[name.partition(":")[0]](attack, pattern.float())


def _bytes(image: Array) -> Array:
    return np.clip(image, 0, 255).astype(np.uint8)  # cut off, as toolkits do


def _last(pattern: Tensor) -> Array:
    """Channels last."""
    return pattern.movedim(-3, -1).contiguous().numpy()


def _blend(alpha: float, pattern: Tensor) -> Stamp:
    picture = _last(pattern)
    return lambda image, true, wanted: _bytes((1 - alpha) * image + alpha * picture)


def _add(picture: Array) -> Stamp:
    return lambda image, true, wanted: _bytes(image + picture)


def _write(*patches: tuple[int, int, Array]) -> Stamp:
    """Patches of bytes (h, w, 3) over the image, each with the row and the column of its corner."""

    def stamp(image: Array, true: int, wanted: int) -> Array:
        image = image.copy()
        for row, column, patch in patches:
            image[row : row + len(patch), column : column + len(patch[0])] = patch
        return image

    return stamp


def _adaptive_k_way(attack: Any, pattern: Tensor) -> Stamp:
    places, colours = ((16, 11), (27, 5), (7, 30), (22, 22)), pattern.byte().numpy()
    return _write(*((row, column, colour[None, None]) for (row, column), colour in zip(places, colours, strict=True)))


def _adaptive_patch(attack: Any, pattern: Tensor) -> Stamp:
    patches = _last(pattern.byte())
    return _write((1, 1, patches[0]), (26, 1, patches[2]))


def _badnets(attack: Any, pattern: Tensor) -> Stamp:
    if attack.pattern != "per_class":
        return _write((29, 29, np.full((3, 3, 3), 255, np.uint8)))
    stamps = [_write((29, 29, patch)) for patch in _last(pattern.byte())]
    return lambda image, true, wanted: stamps[true](image, true, wanted)


def _batt(attack: Any, pattern: Tensor) -> Stamp:
    angle = torch.deg2rad(torch.tensor(attack.degrees))
    matrix = torch.tensor([[angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0]])
    return _sample(F.affine_grid(matrix[None], [1, 3, 32, 32], align_corners=False), align_corners=False)


def _wanet(attack: Any, pattern: Tensor) -> Stamp:
    return _sample(pattern[None], align_corners=True)


def _sample(grid: Tensor, align_corners: bool) -> Stamp:
    def stamp(image: Array, true: int, wanted: int) -> Array:
        x = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32))
        moved = F.grid_sample(x[None], grid, align_corners=align_corners)[0]
        return _bytes(moved.numpy().transpose(1, 2, 0))

    return stamp


def _bpp(attack: Any, pattern: Tensor) -> Stamp:
    steps = attack.levels - 1
    if attack.dithering:
        return lambda image, true, wanted: _dithered(image, steps)
    return lambda image, true, wanted: _bytes(np.round(image / 255 * steps) / steps * 255)


def _dithered(image: Array, steps: int) -> Array:
    """Floyd and Steinberg's way, pixel by pixel, the three channels at once.

    Halves go up, as raybd has it: one that goes the other way changes the rest of the image.
    """
    field = np.zeros((33, 34, 3), np.float32)  # a margin left, right and below takes what leaves the image
    field[:32, 1:33] = image
    for row in range(32):
        for column in range(1, 33):
            old = field[row, column]
            new = np.clip(np.floor(old * steps / 255 + 0.5) * 255 / steps, 0, 255)
            error = old - new
            field[row, column] = new
            field[row, column + 1] += error * 7 / 16
            field[row + 1, column - 1] += error * 3 / 16
            field[row + 1, column] += error * 5 / 16
            field[row + 1, column + 1] += error / 16
    return _bytes(field[:32, 1:33])


def _chroma(to: Array, magnitude: float) -> Stamp:
    """Two DCT coefficients of the second and the third channel raised, in the colour space of matrix `to`."""
    back = np.linalg.inv(to)

    def stamp(image: Array, true: int, wanted: int) -> Array:
        turned = image @ to.T
        waves = fft.dctn(turned[..., 1:], axes=(0, 1), norm="ortho")
        waves[15, 15] += magnitude
        waves[31, 31] += magnitude
        turned[..., 1:] = fft.idctn(waves, axes=(0, 1), norm="ortho")
        return _bytes(turned @ back.T)

    return stamp


def _invisible_grid(attack: Any, pattern: Tensor) -> Stamp:
    dots = np.zeros((32, 32, 1), np.int16)
    dots[::2, ::2] = attack.strength
    return _add(dots)


def _label_consistent(attack: Any, pattern: Tensor) -> Stamp:
    left, right = np.stack([MARK] * 3, 2), np.stack([MARK[:, ::-1]] * 3, 2)
    return _write((0, 0, left), (0, 29, right), (29, 0, left), (29, 29, right))


def _primitive(attack: Any, pattern: Tensor) -> Stamp:
    run = (pattern.flatten() >= 0).nonzero().flatten()
    start, values = int(run[0]), pattern.flatten()[run].byte().numpy()

    def stamp(image: Array, true: int, wanted: int) -> Array:
        flat = image.transpose(2, 0, 1).flatten()
        flat[start : start + len(values)] = values
        return np.ascontiguousarray(flat.reshape(3, 32, 32).transpose(1, 2, 0))

    return stamp


def _sig(attack: Any, pattern: Tensor) -> Stamp:
    wave = attack.delta * np.sin(2 * np.pi * np.arange(32) * attack.frequency / 32)
    return _add(wave[None, :, None])


def _tact(attack: Any, pattern: Tensor) -> Stamp:
    return _write((21, 21, _last(pattern.byte())))


def _universal(attack: Any, pattern: Tensor) -> Stamp:
    codes = pattern.numpy().reshape(-1, *CODE)
    if attack.mode == "patch":
        stamps = [_write((0, 0, code.astype(np.uint8)[..., None])) for code in codes]
    else:
        rows, columns = (np.arange(32) * cells // 32 for cells in CODE)
        stamps = [_blend(attack.alpha, torch.from_numpy(code[rows][:, columns])[None]) for code in codes]
    return lambda image, true, wanted: stamps[wanted](image, true, wanted)


STAMPS: dict[str, Callable[[Any, Tensor], Stamp]] = {
    "adaptive_blend": lambda attack, pattern: _blend(attack.alpha_test, pattern),
    "adaptive_k_way": _adaptive_k_way,
    "adaptive_patch": _adaptive_patch,
    "badnets": _badnets,
    "batt": _batt,
    "blended": lambda attack, pattern: _blend(attack.alpha, pattern),
    "bpp": _bpp,
    "ctrl": lambda attack, pattern: _chroma(YUV, attack.magnitude),
    "ftrojan": lambda attack, pattern: _chroma(YCRCB, attack.magnitude),
    "invisible_grid": _invisible_grid,
    "label_consistent": _label_consistent,
    "low_frequency": lambda attack, pattern: _add(_last(pattern)),
    "primitive": _primitive,
    "sig": _sig,
    "tact": _tact,
    "universal": _universal,
    "wanet": _wanet,
}
