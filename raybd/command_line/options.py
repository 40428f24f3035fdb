"""SweepOptions: the options of a sweep, in groups, which the command line shows as one flat list of flags."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self, TypeVar

import tyro

from raybd.command_line.groups import (
    AttackOptions,
    DataOptions,
    ExecutionOptions,
    MeasureOptions,
    NetworkOptions,
    OptionGroup,
    TrainingOptions,
)
from raybd.command_line.option_file import with_files
from raybd.data.residency import room_for_images
from raybd.errors import InputError
from raybd.plugins import unknown
from raybd.trials.records import check_name


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Options of a sweep. Lists are axes: every combination of their values is a trial.

    A sweep with options of its own adds a group.
    """

    name: str = "ib"
    """Name of the sweep and of its MLflow experiment; a run with the same name resumes."""
    preset: str = "quick"
    """Defaults for everything else: quick (digits on a laptop), or another of this script; a wrong name lists them."""
    config: str | None = None
    """File of options (YAML, TOML or JSON) by the names of the flags; those on the command line come after it."""
    dataset: DataOptions = field(default_factory=DataOptions)
    attack: AttackOptions = field(default_factory=AttackOptions)
    network: NetworkOptions = field(default_factory=NetworkOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    measures: MeasureOptions = field(default_factory=MeasureOptions)
    execution: ExecutionOptions = field(default_factory=ExecutionOptions)

    @classmethod
    def of(cls, **values: Any) -> Self:
        """The default options with `values` replaced, by the names of their flags."""
        return cls().replace(**values)

    def replace(self, **values: Any) -> Self:
        """These options with `values` replaced, by the names of their flags, in whichever group.

        Raises:
            TypeError: there is no such option.
        """
        if bad := unknown("option", values, self.flat()):
            raise TypeError(bad[0])
        changed: dict[str, Any] = {name: values[name] for name in ("name", "preset") if name in values}
        for name, group in self.groups().items():
            mine = {f.name: values[f.name] for f in fields(group) if f.name in values}
            changed |= {name: replace(group, **mine)} if mine else {}
        return replace(self, **changed)

    def groups(self) -> dict[str, OptionGroup]:
        """The groups by name."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, OptionGroup)}

    def flat(self) -> dict[str, Any]:
        """The value of every option by the name of its flag."""
        inside = {f.name: getattr(group, f.name) for group in self.groups().values() for f in fields(group)}
        return {"name": self.name, "preset": self.preset} | inside

    @property
    def image_bytes(self) -> float:
        """Bytes that the images of a trial may take of this machine's memory."""
        return room_for_images(self.dataset.data_memory, self.execution.at_once)

    def problems(self) -> list[str]:
        """What is wrong with the options themselves; trials are validated later."""
        return check_name(self.name) + [problem for group in self.groups().values() for problem in group.problems()]


Options = TypeVar("Options", bound=SweepOptions)


def parse_options(presets: Mapping[str, Options], args: list[str]) -> Options:
    """The options in `args` and in the files that they name, on top of the preset that these name.

    Raises:
        InputError: the preset is unknown, or a file of options is of no use.
    """
    args = with_files(args, next(iter(presets.values())).flat())
    names = [after for before, after in zip(args, args[1:], strict=False) if before == "--preset"]
    names += [arg.removeprefix("--preset=") for arg in args if arg.startswith("--preset=")]
    if found := unknown("preset", names, presets):
        raise InputError(found)
    preset = presets[names[-1] if names else "quick"]
    return tyro.cli(type(preset), default=preset, args=args, config=(tyro.conf.OmitArgPrefixes,))
