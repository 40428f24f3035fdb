"""BackdoorBench's images, worked out in NumPy from what its files compute, casts to bytes included.

One image at a time, (H, W, C) uint8, as there. OpenCV's and kornia's part is written down from their constants.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn, idctn

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]
TO_YUV = np.array([[0.299, 0.587, 0.114], [-0.147, -0.289, 0.436], [0.615, -0.515, -0.100]])  # kornia's
FROM_YUV = np.array([[1.0, 0.0, 1.14], [1.0, -0.396, -0.581], [1.0, 2.029, 0.0]])
CASTS_WRAP = 256


def cut(values: Floats) -> Bytes:
    """What `np.clip(values, 0, 255).astype(np.uint8)` leaves: whole levels, cut down."""
    return np.clip(values, 0, 255).astype(np.uint8)


def wrapped(values: Floats) -> Bytes:
    """A cast to bytes without a clip: cut towards 0, modulo 256."""
    return (np.trunc(values).astype(np.int64) % CASTS_WRAP).astype(np.uint8)


def badnets(image: Bytes, mask: Bytes) -> Bytes:
    """`image` with the pixels of `mask` (H, W, C) written over it where they are not 0."""
    return cut(image * (mask == 0) + mask * (mask > 0).astype(float))


def blended(image: Bytes, picture: NDArray[np.float32], alpha: float) -> Bytes:
    """(1 - alpha) image + alpha picture: the first in float64, the second in float32, as NumPy does of these types."""
    return cut((1 - alpha) * image + alpha * picture)


def sig(image: Bytes, delta: float, f: int) -> Bytes:
    """`image` + delta sin(2 pi j f / W), the wave in float32."""
    columns = np.arange(image.shape[1])
    wave = (delta * np.sin(2 * np.pi * columns * f / image.shape[1])).astype(np.float32)
    return cut(image.astype(np.float64) + wave[None, :, None])


def bpp(image: Bytes, levels: int) -> Bytes:
    """`image` in so many levels a channel, through a float32 tensor in [0, 1] that `ToPILImage` cuts to bytes."""
    x = image.astype(np.float32)
    steps = np.float32(levels - 1)
    coarse = np.round(x / np.float32(255) * steps) / steps * np.float32(255) / np.float32(255)
    return (coarse * np.float32(255)).astype(np.uint8)


def raised(channel: Floats, magnitude: float) -> Floats:
    """`channel` (32 k, 32 l) with DCT coefficients (15, 15) and (31, 31) of each block of 32 raised."""
    made = channel.copy()
    for row in range(0, channel.shape[0], 32):
        for column in range(0, channel.shape[1], 32):
            block = (slice(row, row + 32), slice(column, column + 32))
            waves = dctn(made[block], norm="ortho")
            waves[[15, 31], [15, 31]] += magnitude
            made[block] = idctn(waves, norm="ortho")
    return made


def ctrl(image: Bytes, magnitude: float = 100.0) -> Bytes:
    """To YUV, U and V raised, back, and cast to bytes without a clip."""
    yuv = image.astype(np.float64) @ TO_YUV.T
    for channel in (1, 2):
        yuv[:, :, channel] = raised(yuv[:, :, channel], magnitude)
    return wrapped(yuv @ FROM_YUV.T)


def ycrcb(image: Bytes) -> Bytes:
    """OpenCV's RGB2YCrCb of bytes: fixed point with 14 bits, rounded."""
    r, g, b = (image[:, :, k].astype(np.int64) for k in range(3))
    y = (4899 * r + 9617 * g + 1868 * b + 2**13) >> 14
    cr = ((r - y) * 11682 + (128 << 14) + 2**13) >> 14
    cb = ((b - y) * 9241 + (128 << 14) + 2**13) >> 14
    return np.clip(np.stack([y, cr, cb], 2), 0, 255).astype(np.uint8)


def rgb(image: Bytes) -> Bytes:
    """OpenCV's YCrCb2RGB of bytes."""
    y, cr, cb = (image[:, :, k].astype(np.int64) - centre for k, centre in enumerate((0, 128, 128)))
    r = y + ((cr * 22987 + 2**13) >> 14)
    g = y + ((cr * -11698 + cb * -5636 + 2**13) >> 14)
    b = y + ((cb * 29049 + 2**13) >> 14)
    return np.clip(np.stack([r, g, b], 2), 0, 255).astype(np.uint8)


def ftrojan(image: Bytes, magnitude: float = 30.0) -> Bytes:
    """To YCrCb in bytes, both chroma channels raised, cast to bytes, and back."""
    made = ycrcb(image).astype(np.float64)
    for channel in (1, 2):
        made[:, :, channel] = raised(made[:, :, channel], magnitude)
    return rgb(wrapped(made))
