"""Repairs of the network that is inspected: the defences that repair a trained network, on a copy of it."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from raybd.data import split_validation
from raybd.defences import DEFENCES, TrainingContext
from raybd.defences.post import PostTraining
from raybd.errors import InputError
from raybd.inspection.suspect import Suspect
from raybd.models.network_files import check_format, export_network, write_program
from raybd.plugins import parse, unknown
from raybd.training import TrainConfig
from raybd.types import Data
from raybd.utils.files import expanded

REPAIRS = {name: cls for name, cls in DEFENCES.items() if issubclass(cls, PostTraining)}
CLEAN = 0.1  # share of the training images that a repair is given as clean ones; it draws its budget from them


@dataclass(frozen=True)
class Repair:
    """A repair by name, what it was done to, and the file it was written to, if any."""

    name: str
    network: nn.Module = field(repr=False)
    numbers: dict[str, float]  # of the repair itself: what it cost, how much was pruned
    file: Path | None = None


def parse_repairs(texts: Sequence[str], suspect: Suspect) -> dict[str, PostTraining]:
    """The repairs that `texts` (NAME or NAME:SETTING=VALUE) name, by their texts.

    Raises:
        InputError: one is unknown, or cannot be done to this network; all of them at once.
    """
    names = [text.partition(":")[0] for text in texts]
    problems, found = unknown("repair", names, REPAIRS), {}
    for text in () if problems else texts:
        try:
            found[text] = _fitting(text, suspect)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return found


def _fitting(text: str, suspect: Suspect) -> PostTraining:
    defence = parse("defence", DEFENCES, text)
    assert isinstance(defence, PostTraining)
    if not suspect.trainable:
        raise InputError(f"{suspect.label} cannot be trained on, as {text} does: give its state_dict with --network")
    defence.network(copy.deepcopy(suspect.network))
    return defence


def repair(
    name: str, defence: PostTraining, suspect: Suspect, data: Data, train: TrainConfig, out: Path | None, seed: int = 0
) -> Repair:
    """A repaired copy of the network, written to `out` where that is given.

    Raises:
        DivergedError: the repair left weights that are no numbers.
    """
    rest, clean = split_validation(data.train, CLEAN, seed)
    network = defence.network(copy.deepcopy(suspect.network))
    numbers = defence.timed(
        TrainingContext(
            model=network, images=rest, classes=len(data.classes), train_config=train, seed=seed, trusted=clean
        )
    )
    network.eval()
    if out is not None:
        write(network, data, out)
    return Repair(name, network, numbers, out)


def write(network: nn.Module, data: Data, out: Path) -> None:
    """Write a network to `out`: .pt (weights), .pt2 or .onnx."""
    if out.suffix == ".pt":
        torch.save(network.state_dict(), out)
    else:
        write_program(export_network(network, data.train.shape), out)


def files_of(out: str | Path | None, names: Sequence[str]) -> dict[str, Path | None]:
    """The file for each repair: `out`, with the repair's name before its suffix where there are several.

    Raises:
        InputError: `out` is no file that a network can be written to, or nothing is repaired.
    """
    if out is None:
        return dict.fromkeys(names)
    if not names:
        raise InputError("--out is the file of a repaired network: name a repair (--repair)")
    path = check_format(expanded(out))
    if len(names) == 1:
        return {names[0]: path}
    plain = [name.replace(":", "-").replace(",", "-").replace("=", "-") for name in names]
    return {name: path.with_stem(f"{path.stem}-{short}") for name, short in zip(names, plain, strict=True)}
