"""What every attack does to a picture: python -m raybd.attacks --data mnist --out sheet.png"""

import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro

from raybd.attacks import ATTACKS, Attack, describe, parse
from raybd.attacks.poisoning import PoisonSpec
from raybd.data import load
from raybd.errors import InputError
from raybd.seeds import stream
from raybd.types import COVER, POISON, Data, Images
from raybd.utils.figures import draw_contact_sheet

Row = tuple[str, Images, Images]
TRAIN = 2000  # training images that poisoned ones and covers are picked from
RATE = 0.05


@dataclass(frozen=True, kw_only=True)
class SheetOptions:
    """Draw each attack's trigger on a data set: clean, with the trigger, and the difference times ten."""

    data: str = "digits"
    """digits, mnist, fashion_mnist, cifar10, cifar100, gtsrb, svhn, npz:PATH or folder:PATH."""
    data_root: str | None = field(default_factory=lambda: os.environ.get("RAYBD_DATA"))
    """Folder with the data sets (also RAYBD_DATA)."""
    attacks: tuple[str, ...] = tuple(name for name in ATTACKS if name != "none")
    """NAME, NAME:PRESET or NAME:SETTING=VALUE,..."""
    images: int = 4
    """How many images in a row."""
    seed: int = 0
    """Of victims and triggers."""
    out: Path = Path("attacks.png")
    """A picture of all attacks; or a folder, for one picture each."""


def main() -> int:
    """Draw what the command line asks for; 2 where it cannot be drawn."""
    options = tyro.cli(SheetOptions, description=SheetOptions.__doc__)
    try:
        data = load(options.data, options.data_root)
        attacks = {text: parse(text).with_class_numbers(data.classes) for text in options.attacks}
        rows = {text: _rows(attack, data, options.images, options.seed) for text, attack in attacks.items()}
    except InputError as error:
        print("\n".join(f"error: {problem}" for problem in error.problems), file=sys.stderr)
        return 2
    if options.out.suffix:
        draw_contact_sheet([row for some in rows.values() for row in some], options.out)
    else:
        for text, some in rows.items():
            draw_contact_sheet(some, options.out / f"{re.sub(r'[^A-Za-z0-9_.=-]', '-', text)}.png")
    print(options.out)
    return 0


def _rows(attack: Attack, data: Data, count: int, seed: int) -> list[Row]:
    """At test, by each member; then in training and as cover, where those look otherwise or were chosen by looks."""
    if problems := attack.check(data.train.shape, len(data.classes)):
        raise InputError(problems)
    classes, rows = len(data.classes), []
    recipe = PoisonSpec(attack, RATE, seed).on(data.train, classes)
    for k, member in enumerate(attack.members()):
        some = data.test.take(member.attack.measured(data.test.y).nonzero().squeeze(1)[:count])
        name = ": ".join(filter(None, (describe(attack), member.name)))
        rows.append((name, some, recipe.triggered_by(k, some, classes)))
    if len(attack.members()) == 1:
        rows += _training_rows(attack, data, count, seed)
    return rows


def _training_rows(attack: Attack, data: Data, count: int, seed: int) -> list[Row]:
    train = data.train.take(torch.randperm(len(data.train), generator=stream(seed, "sheet"))[:TRAIN])
    classes, rows = len(data.classes), list[Row]()
    poisoned = PoisonSpec(attack, RATE, seed).on(data.train, classes).poison(train, classes)
    hidden = type(attack.members()[0].attack).stamp_training is not Attack.stamp_training
    chosen = type(attack).victims_in_order is not Attack.victims_in_order
    for role, name in ((POISON, "  in training"), (COVER, "  a cover")):
        index = (poisoned.roles == role).nonzero().squeeze(1)[:count]
        if len(index) and (hidden or chosen or role == COVER):
            rows.append((name, train.take(index), poisoned.images.take(index)))
    return rows


if __name__ == "__main__":
    sys.exit(main())
