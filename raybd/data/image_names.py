"""All images of a source that somebody would train on, with a name for each: its file's, or its place in the source."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from raybd.data import DATASETS, load
from raybd.data.folder import Folder
from raybd.data.subset import Subset, parse, restrict
from raybd.pixels import as_pixels, is_streamed
from raybd.types import Data, Images
from raybd.utils.files import expanded


@dataclass(frozen=True)
class NamedImages:
    """Images with their names and the names of their classes."""

    images: Images
    names: tuple[str, ...]
    classes: tuple[str, ...]
    source: str  # as it was asked for
    base: Path | None = None  # the folder in which the names are files; None: they are numbers from 0


def named_images(source: str, root: str | Path | None = None, resize: int = 0) -> NamedImages:
    """The training images of the data set `source`, as `raybd.data.load` takes it.

    Of a folder without a test split of its own all images, those among them that a sweep would test on. A name is the
    file's path below the folder; of other sources the number, from 0, of the image among the whole training images.

    Raises:
        InputError: as `raybd.data.load`.
    """
    data = load(source, root, resize)
    whole, subset = parse(source)
    kind, _, path = whole.partition(":")
    reader = DATASETS[kind]
    if not isinstance(reader, Folder):
        numbers = range(len(data.train)) if subset is None else _kept(load(whole, root, resize), subset)
        return NamedImages(_in_memory(data.train), tuple(map(str, numbers)), data.classes, source)
    files = reader.file_names(expanded(path))
    images, names = data.train, list(files.train)
    if subset is not None:
        names = [names[i] for i in _kept(load(whole, root, resize), subset)]
    elif files.drawn:
        names += files.test
        images = Images(torch.cat([data.train.x, data.test.x]), torch.cat([data.train.y, data.test.y]))
    return NamedImages(_in_memory(images), tuple(names), data.classes, source, expanded(path))


def _in_memory(images: Images) -> Images:
    """`images`; of a set that is streamed, read."""
    return Images(as_pixels(images.x)[:], images.y) if is_streamed(images.x) else images


def _kept(data: Data, subset: Subset) -> list[int]:
    """The numbers of the training images of `data` that are of the `subset`: carried through it as pixels."""
    count = np.arange(len(data.train), dtype="<u4")
    numbered = torch.from_numpy(count.view(np.uint8).reshape(-1, 1, 1, 4).copy())
    carried = restrict(replace(data, train=Images(numbered, data.train.y)), subset).train.x
    kept: list[int] = carried.numpy().reshape(-1, 4).copy().view("<u4")[:, 0].tolist()
    return kept
