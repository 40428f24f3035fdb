"""How far BackdoorBench's images are from the formulas: `python -m tests.benchmarks.fidelity --data DATA`.

Colour test images of 32x32 or a multiple. A table: an attack a row; levels of 0-255 between that code's image, worked
out by tests/backdoorbench.py, and the attack's formula, clipped and rounded to the nearest level.
"""

import argparse
from collections.abc import Callable

import numpy as np
import torch

from raybd.attacks import parse
from raybd.attacks.poisoning import PoisonSpec
from raybd.data import load
from raybd.types import Images
from tests import backdoorbench
from tests.backdoorbench import Bytes

SEED = 0


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.fidelity", description=__doc__)
    parser.add_argument("--data", required=True, help="npz:FILE, or another name that a sweep takes")
    parser.add_argument("--images", type=int, default=1000, help="of the test set, at most")
    asked = parser.parse_args()
    images = load(asked.data).test.take(torch.arange(asked.images))
    print("| attack | mean | largest | images with a value off by more than 4 | by more than 50 |")
    print("| --- | --- | --- | --- | --- |")
    for name, theirs in peers(images).items():
        off = np.abs(formula(name, images).astype(int) - np.stack([theirs(x) for x in channels_last(images.x)]))
        most = off.reshape(len(off), -1).max(1)
        shares = " | ".join(f"{(most > level).mean():.1%}" for level in (4, 50))
        print(f"| `{name}` | {off.mean():.2f} | {off.max()} | {shares} |")


def peers(images: Images) -> dict[str, Callable[[Bytes], Bytes]]:
    """By the attack's name, what BackdoorBench makes of one image."""
    picture = PoisonSpec(parse("blended"), 0.0, SEED).trigger(images.shape, 10).permute(1, 2, 0).numpy()
    return {
        "blended": lambda x: backdoorbench.blended(x, picture, 0.2),
        "sig": lambda x: backdoorbench.sig(x, 40, 6),
        "bpp:dithering=false": lambda x: backdoorbench.bpp(x, 8),
        "ftrojan": backdoorbench.ftrojan,
        "ctrl": backdoorbench.ctrl,
    }


def formula(name: str, images: Images) -> Bytes:
    """(N, H, W, C): `images` with the trigger of the attack written as `name`."""
    return channels_last(PoisonSpec(parse(name), 0.0, SEED).triggered(images, 10).x)


def channels_last(x: torch.Tensor) -> Bytes:
    """`x` (N, C, H, W) as (N, H, W, C)."""
    return x.permute(0, 2, 3, 1).numpy()


if __name__ == "__main__":
    main()
