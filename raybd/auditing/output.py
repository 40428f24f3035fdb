"""What an audit leaves in a folder: the ranking, the contact sheet, the clean subset and the verdict."""

import os
import shutil
from pathlib import Path
from typing import Literal

import numpy as np

from raybd.auditing.suspects import Audit, printable
from raybd.data.image_names import NamedImages
from raybd.errors import InputError
from raybd.utils.contact_sheet import draw_sheet
from raybd.utils.files import write_atomically, write_text

RANKING, SHEET, SUBSET, VERDICT = "ranking.csv", "suspects.png", "clean_subset.txt", "verdict.txt"
SHOWN = 48  # suspects on the sheet
Export = Literal["none", "links", "copies", "npz"]


def save(result: Audit, folder: Path, export: Export = "none") -> list[Path]:
    """Write `ranking.csv` (all images), `suspects.png`, `clean_subset.txt` (a name a line) and `verdict.txt`.

    `export` also makes the clean subset itself: `clean_subset/CLASS/FILE` as links or copies of the files, or
    `clean_subset.npz`.

    Raises:
        InputError: links or copies are asked for of images that are no files, or the folder holds a subset already.
    """
    check_output(result.named, folder, export)
    write_text(folder / RANKING, result.to_frame().to_csv(index=False))
    write_text(folder / SUBSET, "".join(f"{name}\n" for name in result.kept_names))
    write_text(folder / VERDICT, f"{result}\n")
    shown = result.order[:SHOWN]
    captions = [_captions(result, int(i)) for i in shown]
    draw_sheet(result.named.images.x[shown.tolist()], captions, folder / SHEET)
    if export == "npz":
        write_atomically(folder / "clean_subset.npz", lambda part: _save_arrays(result, part))
    elif export != "none":
        _place_files(result, folder / "clean_subset", export)
    return [folder / name for name in (RANKING, SHEET, SUBSET, VERDICT)]


def check_output(named: NamedImages, folder: Path, export: Export) -> None:
    """Make `folder`. Raise InputError where it cannot be written to, or the clean subset cannot be made as asked."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder} cannot be written to")
    if export not in ("links", "copies"):
        return
    if named.base is None:
        raise InputError(f"{named.source} has no image files to be made {export} of: --export npz")
    if (folder / "clean_subset").exists():
        raise InputError(f"{folder / 'clean_subset'} exists: choose another --out, or remove it")


def _captions(result: Audit, i: int) -> tuple[str, str, str]:
    named = result.named
    return printable(named.names[i]), named.classes[int(named.images.y[i])], f"{result.suspicion[i]:.1f}"


def _save_arrays(result: Audit, path: Path) -> None:
    """The clean subset's `x` (n, C, H, W), `y` (n,), names of classes and of images."""
    kept = (~result.left_out).nonzero()[0].tolist()
    images = result.named.images
    with path.open("wb") as file:  # of a path without its suffix NumPy makes another
        np.savez_compressed(
            file,
            allow_pickle=False,
            x=images.x[kept].numpy(),
            y=images.y[kept].numpy(),
            classes=np.array(result.named.classes),
            names=np.array(result.kept_names),
        )


def _place_files(result: Audit, folder: Path, export: Export) -> None:
    """Links or copies of the kept files, in one folder for each class."""
    base = result.named.base
    assert base is not None
    for i in (~result.left_out).nonzero()[0].tolist():
        name = result.named.names[i]
        place = folder / result.named.classes[int(result.named.images.y[i])] / name.replace("/", "__")
        place.parent.mkdir(parents=True, exist_ok=True)
        if export == "links":
            place.symlink_to(base / name)
        else:
            shutil.copy2(base / name, place)
