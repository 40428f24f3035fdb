"""Stamping a trigger: one batched pass over bytes against an image at a time, through PIL, as toolkits do."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from raybd.attacks import Attack, BadNets, Blended
from raybd.attacks.recipe import Recipe
from raybd.types import Images, Poisoned
from tests.benchmarks.timing import Row, interleave, rate, require

SHAPE, CLASSES, RATE = (3, 32, 32), 10, 0.1
TRAIN, TEST = 50_000, 10_000
SAMPLE = 1000  # of the poisoned training images and of the test images, for the plain side
Array = np.ndarray
Stamp = Callable[[Array], Array]


def poisoning() -> list[Row]:
    """Images/CPU-s stamped at CIFAR-10 size; ours also chooses victims, copies the set and changes the labels."""
    train, test = _made(TRAIN, 0), _made(TEST, 1)
    attacks: list[Attack] = [BadNets(), Blended()]
    return [_row(Recipe(attack, RATE, seed=0), train, test) for attack in attacks]


def _row(recipe: Recipe, train: Images, test: Images) -> Row:
    victims = recipe.victims(train.y)
    sample = torch.cat([train.x[victims[:SAMPLE]], test.x[:SAMPLE]]).permute(0, 2, 3, 1).numpy()
    stamp = _stamp(recipe)

    def ours() -> tuple[Poisoned, Images]:
        return recipe.poison(train, CLASSES), recipe.triggered(test, CLASSES)

    def plain() -> list[Array]:
        return [np.asarray(Image.fromarray(stamp(np.asarray(Image.fromarray(image))))) for image in sample]

    poisoned, triggered = ours()
    stamped = torch.cat([poisoned.images.x[victims[:SAMPLE]], triggered.x[:SAMPLE]]).permute(0, 2, 3, 1)
    apart = np.abs(stamped.numpy().astype(int) - np.stack(plain())).max()
    name = type(recipe.attack).__name__.lower()
    require(apart <= (name == "blended"), f"{name}: {apart} grey levels apart")  # toolkits cut blends off, we round
    seconds = interleave({"ours": ours, "plain": plain})
    return rate(f"poison {name} 32x32x3", seconds["ours"], seconds["plain"], (len(victims) + TEST, len(sample)))


def _stamp(recipe: Recipe) -> Stamp:
    attack, noise = recipe.attack, recipe.trigger(SHAPE)
    if isinstance(attack, Blended):
        return _blend(attack.alpha, noise.permute(1, 2, 0).numpy())
    return _patch(BadNets().side(SHAPE))


def _patch(side: int) -> Stamp:
    def stamp(image: Array) -> Array:
        image = image.copy()
        image[-side:, -side:] = 255
        return image

    return stamp


def _blend(alpha: float, noise: Array) -> Stamp:
    return lambda image: ((1 - alpha) * image + alpha * noise).clip(0, 255).astype(np.uint8)


def _made(n: int, seed: int) -> Images:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (n, *SHAPE), generator=rng, dtype=torch.uint8)
    return Images(x, torch.arange(n) % CLASSES)
