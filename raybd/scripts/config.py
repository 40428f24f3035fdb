"""ScriptConfig: the commands of a user's training, or the name of a function, with the values of its knobs."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raybd.plugins import unknown
from raybd.utils.constraints import NonNegative

KnobValue = float | int | str
Knobs = tuple[tuple[str, KnobValue], ...]
NEEDED = {"train": ("data", "out"), "predict": ("out", "data", "predictions")}
RESERVED = ("data", "out", "predictions", "seed", "results")  # RAYBD_DATA and RAYBD_RESULTS are raybd's own
FUNCTION = "function "  # how `train` begins where it is a Python function
PLACE = re.compile(r"\{\{|\}\}|\{([A-Za-z_]\w*)\}")


@dataclass(frozen=True, kw_only=True)
class ScriptConfig:
    """A user's training, which raybd never imports: two shell commands, in which {NAME} stands for a path or a knob.

    `train` gets {data} and leaves what it has learnt at {out}, a folder; `predict` gets {out} and {data} and writes
    {predictions}. Both may have {seed} and {KNOB}. With `train="function NAME"` a Python function does both.
    """

    train: str
    predict: str = ""
    layout: str = "npz"  # how the data are written, by its name in `raybd.scripts.layouts`
    knobs: Knobs = ()  # names and values
    folder: str = field(default="", metadata={"outcome": False})  # in which the commands run
    time_limit: NonNegative = field(default=0.0, metadata={"outcome": False})  # seconds of a command; 0: none

    @property
    def is_function(self) -> bool:
        """Whether a Python function trains."""
        return self.train.startswith(FUNCTION)

    @property
    def commands(self) -> dict[str, str]:
        """The commands by what they do; none of a function."""
        return {} if self.is_function else {"train": self.train, "predict": self.predict}

    @property
    def label(self) -> str:
        """The knobs, as people write them."""
        return " ".join(
            f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in self.knobs
        )

    def identity(self) -> dict[str, Any]:
        """What decides an outcome, in JSON's types."""
        return {"train": self.train, "predict": self.predict, "layout": self.layout, "knobs": dict(self.knobs)}

    def to_dict(self) -> dict[str, Any]:
        """All settings, in JSON's types."""
        return self.identity() | {"folder": self.folder, "time_limit": self.time_limit}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "ScriptConfig":
        """The config that `to_dict` wrote."""
        return cls(**{**plain, "knobs": tuple(plain["knobs"].items())})

    def files(self) -> dict[str, Path]:
        """The files that the commands name, by the words that name them: scripts, settings, weights."""
        words = [word for command in self.commands.values() for word in _words(command)]
        found = {word: Path(self.folder) / Path(word).expanduser() for word in words if "{" not in word}
        return {word: path for word, path in found.items() if path.is_file() and not _is_program(path)}

    def problems(self) -> list[str]:
        """Names in braces that mean nothing, and those that a command lacks."""
        known = [*RESERVED[:4], *(name for name, _ in self.knobs)]
        found = []
        for what, command in self.commands.items():
            names = [match.group(1) for match in PLACE.finditer(command) if match.group(1)]
            found += [f"--{what}: {problem}" for problem in unknown("name in braces", names, known)]
            if missing := [f"{{{name}}}" for name in NEEDED[what] if name not in names]:
                found.append(f"--{what} needs {' and '.join(missing)} in its command, which is: {command or 'empty'}")
        return found


def fill(command: str, values: Mapping[str, object]) -> str:
    """`command` with {NAME} replaced by the quoted value of that name; {{ and }} are braces."""

    def put(match: re.Match[str]) -> str:
        name = match.group(1)
        return shlex.quote(str(values[name])) if name else match.group(0)[0]

    return PLACE.sub(put, command)


def variables(values: Mapping[str, object]) -> dict[str, str]:
    """The environment variables RAYBD_NAME of knobs and of the seed."""
    return {f"RAYBD_{name.upper()}": str(value) for name, value in values.items()}


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # the shell will say what is wrong with it
        return command.split()


def _is_program(path: Path) -> bool:
    """Whether a file is an interpreter of the system or of an environment: its version is not the script's."""
    return path.parent.name in ("bin", "sbin") and path.is_absolute() and not path.suffix
