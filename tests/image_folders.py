"""Folders of image files for tests."""

from pathlib import Path

from PIL import Image

from raybd.attacks import ATTACKS
from raybd.attacks.poisoning import PoisonSpec
from raybd.types import POISON, Images


def write_folder(images: Images, where: Path) -> list[str]:
    """Write the images as WHERE/digit_LABEL/NUMBER.png; their names in the order of `images`."""
    names = []
    for i, (x, label) in enumerate(zip(images.x.numpy(), images.y.tolist(), strict=True)):
        names.append(f"digit_{label}/{i:04}.png")
        (where / names[-1]).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[0]).save(where / names[-1])
    return names


def write_planted(images: Images, classes: int, count: int, target: int, where: Path) -> list[str]:
    """As `write_folder`, with a patch on `count` of the images; the names of these."""
    made = PoisonSpec(ATTACKS["badnets"](target=target), count / len(images), 0).poison(images, classes)
    names = write_folder(made.images, where)
    return [names[i] for i in (made.roles == POISON).nonzero()[:, 0].tolist()]
