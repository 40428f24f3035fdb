"""Stamping a trigger: one batched pass over bytes against an image at a time, through PIL and PNG, as toolkits do."""

import os
import tempfile
import time
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image

from raybd.attacks import ATTACKS, parse
from raybd.attacks.poisoning import PoisonSpec
from raybd.attacks.surrogate import surrogate
from raybd.types import Images
from tests.benchmarks.poisoning_plain import Array, Stamp, plain
from tests.benchmarks.timing import Row, interleave, rate, require

SHAPE, CLASSES, RATE, SEED = (3, 32, 32), 10, 0.1, 0
IMAGES, SAMPLE, FEW = 50_000, 500, 10  # all of them for ours; for the plain sides; for one that takes 10 ms an image
MEMORY = Path("/dev/shm")  # PNGs go there where it is: the kindest disk
ALIKE = 1  # grey levels: toolkits cut off, raybd rounds
VARIANTS = ["badnets:learning_curves", "bpp:backdoorbench", "universal:blend"]
COSTLY = "label_consistent"  # trains a network and climbs its loss: nothing to compare with
Work = tuple[Array, int, int, Stamp]  # an image with its class, the class that is wanted of it, and who stamps it


def poisoning() -> list[Row]:
    """Images/CPU-s with the trigger of a test image, and seconds to poison a training set, at CIFAR-10 size."""
    images = _made()
    names = [name for name in ATTACKS if name != "none"] + VARIANTS
    stamped = [row for name in names for row in _stamped(name, images)]
    return stamped + [_poisoned(name, images) for name in names if name != COSTLY] + _cost(images)


def _stamped(name: str, images: Images) -> list[Row]:
    recipe = PoisonSpec(parse(name), RATE, SEED)
    work = _work(name, recipe, images, FEW if getattr(recipe.attack, "dithering", False) else SAMPLE)
    made = recipe.triggered(images, CLASSES).x.view(-1, IMAGES, *SHAPE)
    ours = made[:, : len(work) // len(made)].flatten(0, 1).permute(0, 2, 3, 1).numpy()
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        sides = {"memory": partial(_in_memory, work), "files": partial(_through_files, Path(folder), work)}
        for side in sides.values():
            apart = np.abs(ours.astype(int) - np.stack(side())).max()
            require(apart <= ALIKE, f"{name}: {apart} grey levels apart")
        seconds = interleave({"ours": partial(recipe.triggered, images, CLASSES), **sides})
    sizes = (len(made) * IMAGES, len(work))
    return [
        rate(f"stamp {name}{what}", seconds["ours"], seconds[side], sizes)
        for side, what in (("memory", ""), ("files", ", files"))
    ]


def _work(name: str, recipe: PoisonSpec, images: Images, n: int) -> list[Work]:
    """The first `n` images, once for each member of the attack."""
    work, pictures = [], images.x[:n].permute(0, 2, 3, 1).contiguous().numpy()
    for k, member in enumerate(recipe.attack.members()):
        stamp = plain(member.name or name, member.attack, recipe.trigger(SHAPE, CLASSES, k))
        wanted = recipe.triggered_by(k, images, CLASSES).y[:n].tolist()
        work += [(*one, stamp) for one in zip(pictures, images.y[:n].tolist(), wanted, strict=True)]
    return work


def _in_memory(work: list[Work]) -> list[Array]:
    return [np.asarray(_picture(one)) for one in work]


def _through_files(folder: Path, work: list[Work]) -> list[Array]:
    """A PNG for each image, written and read back."""
    for i, one in enumerate(work):
        _picture(one).save(folder / f"{i}.png")
    return [np.asarray(Image.open(folder / f"{i}.png")) for i in range(len(work))]


def _picture(one: Work) -> Image.Image:
    image, true, wanted, stamp = one
    return Image.fromarray(stamp(np.asarray(Image.fromarray(image)), true, wanted))


def _poisoned(name: str, images: Images) -> Row:
    recipe = PoisonSpec(parse(name), RATE, SEED)
    seconds = sorted(interleave({"ours": partial(recipe.poison, images, CLASSES)})["ours"])
    return Row(f"poison {name}", seconds[len(seconds) // 2], None, len(seconds), "CPU-s")


def _cost(images: Images) -> list[Row]:
    """CPU-s to train the surrogate of label_consistent, and to poison with it at hand; once each."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, RAYBD_CACHE=folder):
        start = time.process_time()
        surrogate(images, CLASSES)
        trained = time.process_time()
        PoisonSpec(parse(COSTLY), RATE, SEED).poison(images, CLASSES)
        poisoned = time.process_time()
    figures = {"surrogate": trained - start, "ascent": poisoned - trained}
    return [Row(f"poison {COSTLY}: {part}", seconds, None, 1, "CPU-s") for part, seconds in figures.items()]


def _made() -> Images:
    rng = torch.Generator().manual_seed(SEED)
    x = torch.randint(0, 256, (IMAGES, *SHAPE), generator=rng, dtype=torch.uint8)
    return Images(x, torch.arange(IMAGES) % CLASSES)
