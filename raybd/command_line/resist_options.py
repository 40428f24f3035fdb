"""Options of `raybd resist`: a user's training, its knobs, and how many trainings the search may have."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from annotated_types import Interval, MinLen

from raybd.command_line.groups import (
    AttackOptions,
    ExecutionOptions,
    MeasureOptions,
    NetworkOptions,
    OptionGroup,
    TrainingOptions,
)
from raybd.command_line.options import SweepOptions
from raybd.errors import InputError
from raybd.plugins import unknown
from raybd.scripts import ScriptConfig
from raybd.scripts.config import FUNCTION
from raybd.scripts.knobs import Knob, parse_knobs, settings
from raybd.scripts.layouts import LAYOUTS, layout_of
from raybd.utils.constraints import Count, InnerShare, NonNegative, Share

LEAST_SEEDS = 3  # fewer do not show how far seeds spread
Fixed = tyro.conf.Suppress, tyro.conf.Fixed


@dataclass(frozen=True, kw_only=True)
class ResistAttacks(AttackOptions):
    """The poison."""

    poison_rates: Annotated[tuple[Share, ...], MinLen(2)] = (0.002, 0.3)
    """The smallest and the largest poison rate that are tried; an attack that cannot have the largest gets less."""


@dataclass(frozen=True, kw_only=True)
class ScriptOptions(OptionGroup):
    """The training."""

    train: str = ""
    """Shell command that trains: {data} is what it reads, {out} a folder for what it learns; {seed} and {KNOB}, too."""
    predict: str = ""
    """Shell command that reads {out} and {data} and writes to {predictions} a line a test image: class or scores."""
    layout: str | None = None
    """How data are written: npz, npz_channels_last, npz_channels_first, folder, folder_val, csv, mnist or
    fashion_mnist; none: as --data has them."""
    knob: tuple[str, ...] = ()
    """What may be changed: NAME=LOW..HIGH, NAME=LOW..HIGH:log or NAME=A,B,C; {NAME} in the command or RAYBD_NAME."""
    defaults: tuple[str, ...] = ()
    """What knobs are as it stands: NAME=VALUE; none: the first value, or the lower end."""
    target_rates: Annotated[tuple[InnerShare, ...], MinLen(1)] = (0.05,)
    """Poison rates that a change of knobs must hold against."""
    trainings: Annotated[int, Interval(ge=15, le=10**4)] = 40
    """Most trainings for each attack, clean twins among them."""
    knob_trainings: Count = 60
    """Most trainings for the search of knobs."""
    seeds: Annotated[int, Interval(ge=LEAST_SEEDS, le=100)] = 5
    """Seeds of a poison rate where the first do not tell."""
    time_limit: NonNegative = 0.0
    """Seconds after which a command is ended as hung; 0: never."""
    max_attack_success: InnerShare = 0.1
    """Attack success above that of the clean twins at which a backdoor takes hold."""
    max_accuracy_loss: Share = 0.05
    """Clean accuracy that a change of knobs may cost."""

    def problems(self) -> list[str]:
        """Those of every group, commands that are missing, knobs that are none."""
        found = super().problems() + unknown("layout", [self.layout] if self.layout else [], LAYOUTS)
        needed = ("train",) if self.train.startswith(FUNCTION) else ("train", "predict")
        found += [f"--{name} is needed" for name in needed if not getattr(self, name)]
        try:
            self.knobs()
        except InputError as error:
            found += error.problems
        return found

    def knobs(self) -> list[Knob]:
        """The knobs.

        Raises:
            InputError: one is not understood.
        """
        return parse_knobs(self.knob, self.defaults)

    def script(self, data: str) -> ScriptConfig:
        """The training at the default of its knobs, of the data set `data`.

        Raises:
            InputError: a knob is not understood, or `data` has no layout that can be written.
        """
        return ScriptConfig(
            train=self.train,
            predict=self.predict,
            layout=self.layout or layout_of(data),
            knobs=settings(self.knobs(), {}),
            folder=str(Path.cwd()),
            time_limit=self.time_limit,
        )


@dataclass(frozen=True, kw_only=True)
class ResistOptions(SweepOptions):
    """Options of `raybd resist`: the data, the attacks, and a training that raybd knows by its predictions alone."""

    name: str = "resist"
    attack: ResistAttacks = field(default_factory=ResistAttacks)
    script: ScriptOptions = field(default_factory=ScriptOptions)
    execution: ExecutionOptions = field(default_factory=lambda: ExecutionOptions(figures="first_seed"))
    network: Annotated[NetworkOptions, *Fixed] = field(default_factory=NetworkOptions)
    training: Annotated[TrainingOptions, *Fixed] = field(default_factory=TrainingOptions)
    measures: Annotated[MeasureOptions, *Fixed] = field(default_factory=MeasureOptions)

    def groups(self) -> dict[str, OptionGroup]:
        """The groups that a user's own training has."""
        return {n: g for n, g in super().groups().items() if n not in ("network", "training", "measures")}

    def problems(self) -> list[str]:
        """Those of every group, and what the search needs of them."""
        found, rates = super().problems(), self.attack.poison_rates
        if not found and not 0 < min(rates) < max(rates):
            found.append("--poison-rates are the ends of a range: two different ones above 0")
        if self.attack.every:
            found.append("--attacks all: name those that the training is to resist, each costs --trainings")
        if self.execution.keep_models != "none":
            found.append("--keep-models must be none: what a training of your own has learnt is in its own {out}")
        if self.dataset.validation:
            found.append("--validation must be 0: what the training sets aside is its own affair")
        return found


def merge_repeated(args: Sequence[str], flags: Sequence[str] = ("--knob", "--defaults")) -> list[str]:
    """`args` with what follows each of `flags`, however often it stands there, behind it once: --knob A --knob B."""
    merged: dict[str, list[str]] = {}
    rest, flag = list[str](), ""
    for word in args:
        name, sign, value = word.partition("=")
        if name in flags:
            flag = name
            merged.setdefault(name, []).extend([value] if sign else [])
        elif flag and not word.startswith("--"):
            merged[flag].append(word)
        else:
            flag = ""
            rest.append(word)
    return [*rest, *(word for name, values in merged.items() for word in (name, *values))]
