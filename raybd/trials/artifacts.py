"""Artifacts of a trial, beside its record in its folder: tables, arrays, figures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raybd.trials.base import TrialResult
from raybd.trials.config import TrialConfig
from raybd.trials.kinds import kind_of
from raybd.trials.records import TrialFolder
from raybd.types import POISON, Report
from raybd.utils.figures import draw_examples, draw_suspects
from raybd.utils.files import write_atomically


def save_probe_arrays(folder: TrialFolder, report: Report) -> None:
    """Save the arrays of a probe, for an attempt that resumes after this epoch."""
    if not report.arrays:
        return
    folder.probes.mkdir(exist_ok=True)
    arrays = {name: value.cpu().numpy() for name, value in report.arrays.items()}

    def save(part: Path) -> None:
        with part.open("wb") as file:  # of a path without its suffix NumPy makes another
            np.savez(file, allow_pickle=False, **arrays)

    write_atomically(folder.probes / f"{report.epoch}.npz", save)


def _probed(folder: TrialFolder) -> dict[str, Tensor]:
    """The arrays saved at the probes, by all attempts."""
    found: dict[str, Tensor] = {}
    for path in folder.probes.glob("*.npz"):
        with np.load(path) as arrays:
            found |= {name: torch.from_numpy(value) for name, value in arrays.items()}
    return found


def save_artifacts(
    folder: TrialFolder, config: TrialConfig, result: TrialResult, formats: Sequence[str] = ("png",)
) -> None:
    """Save the artifacts of a finished trial: per-sample table, arrays, and figures in the `formats`, if any.

    What shows single images is a PNG all the same.
    """
    table = {name: column.cpu().numpy().astype(np.int16) for name, column in result.table.items()}
    table["train_roles"] = result.roles.cpu().numpy()
    np.savez_compressed(folder.path / "per_sample.npz", allow_pickle=False, **table)
    if arrays := _probed(folder) | result.arrays:
        kept = {name: value.numpy() for name, value in arrays.items()}
        np.savez_compressed(folder.path / "arrays.npz", allow_pickle=False, **kept)
    if formats:
        _draw(folder, config, result, arrays, formats)


def _draw(
    folder: TrialFolder, config: TrialConfig, result: TrialResult, arrays: dict[str, Tensor], formats: Sequence[str]
) -> None:
    some, drawn = result.examples, kind_of(config).figures(folder.history(), config.label)
    draw_examples(some.clean, some.triggered, some.captions, folder.path / "figures" / "examples.png")
    if result.suspects is not None:
        seen = result.suspects
        poison = (seen.roles == POISON).tolist()
        names, path = [result.classes[k] for k in seen.images.y.tolist()], folder.path / "figures" / "suspects.png"
        draw_suspects(seen.images, names, seen.suspicion.tolist(), poison, path)
    for metric in config.metrics:
        drawn |= metric.figures(folder.history(), arrays, config.label)
    for name, figure in drawn.items():
        for suffix in formats:
            figure.savefig(folder.path / "figures" / f"{name}.{suffix}")
