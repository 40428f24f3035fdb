"""Tiny-ImageNet's own layout of a folder, where validation images lie in one folder and a file names their classes.

    wnids.txt                       a class a line, as n01443537
    words.txt                       its name after a tab, for all of WordNet
    train/n01443537/images/*.JPEG   beside n01443537_boxes.txt
    val/images/*.JPEG
    val/val_annotations.txt         image and class, tabs, a box

The images under test/ have no labels and are left out.
"""

from pathlib import Path

from raybd.data.image_files import Tree, is_image
from raybd.data.reader import shorten
from raybd.errors import InputError

CLASSES, WORDS = "wnids.txt", "words.txt"
LABELS = Path("val") / "val_annotations.txt"


def is_tiny_imagenet(where: Path) -> bool:
    """Whether `where` has the files of that layout."""
    return (where / CLASSES).is_file() and (where / LABELS).is_file()


def tiny_imagenet_trees(where: Path) -> list[Tree]:
    """The files of the training and the validation images, classes sorted by their WordNet id.

    Raises:
        InputError: with everything that is missing.
    """
    classes = sorted((where / CLASSES).read_text(errors="replace").split())
    train = {name: _images(where / "train" / name / "images") for name in classes}
    val: Tree = {name: [] for name in classes}
    labels = [
        line.split("\t")[:2] for line in (where / LABELS).read_text(errors="replace").splitlines() if line.strip()
    ]
    problems = [f"no training image of class {name}" for name, paths in train.items() if not paths]
    for image, name in sorted(label for label in labels if len(label) == 2):
        val.setdefault(name, []).append(where / "val" / "images" / image)
    if unknown := [name for name in val if name not in train]:
        problems.append(f"{LABELS} names classes that {CLASSES} does not: {shorten(unknown)}")
    if short := [" ".join(label) for label in labels if len(label) != 2]:
        problems.append(f"{LABELS} has lines without a class: {shorten(short)}")
    if len(classes) < 2 or not labels:
        problems.append(f"{len(classes)} classes and {len(labels)} validation images: at least 2 and 1 are needed")
    if problems:
        raise InputError(f"folder:{where}: {problem}" for problem in problems)
    return [train, val]


def class_names(where: Path, classes: list[str]) -> list[str]:
    """`classes`, of Tiny-ImageNet each with its word, as "n01443537 goldfish": two words may be the same."""
    words = where / WORDS
    if not (is_tiny_imagenet(where) and words.is_file()):
        return classes
    known = dict(line.split("\t", 1) for line in words.read_text(errors="replace").splitlines() if "\t" in line)
    return [f"{name} {known[name].split(',')[0]}" if name in known else name for name in classes]


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_image(path)) if folder.is_dir() else []
