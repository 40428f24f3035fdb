"""Files of options: YAML, TOML or JSON, with the names of the flags; a sweep writes the one that repeats it."""

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from raybd.errors import InputError, public
from raybd.plugins import unknown
from raybd.utils.files import expanded

FLAG = "--config"
FILE = "options.yaml"  # of a sweep, in its folder
NOT_WRITTEN = ("dry_run", "all")  # what is shown of a sweep, and no part of it


def _from_yaml(text: str) -> Any:
    import yaml  # here: a command line without a file needs none of it

    return yaml.safe_load(text)


READERS: Mapping[str, Callable[[str], Any]] = {
    ".yaml": _from_yaml,
    ".yml": _from_yaml,
    ".toml": tomllib.loads,
    ".json": json.loads,
}


def with_files(args: Sequence[str], known: Mapping[str, Any]) -> list[str]:
    """`args` behind the options of the files that they name, so that what is typed holds.

    Args:
        args: of a command line.
        known: every option of the sweep by its name, with its default.

    Raises:
        InputError: a file cannot be read, or holds what is no option.
    """
    files = [after for before, after in zip(args, args[1:], strict=False) if before == FLAG]
    files += [arg.partition("=")[2] for arg in args if arg.startswith(f"{FLAG}=")]
    return [*(word for file in files for word in _arguments(file, known)), *args]


def _arguments(file: str, known: Mapping[str, Any]) -> list[str]:
    """The options of a file as words of a command line."""
    given = {str(name).replace("-", "_"): value for name, value in _read(expanded(file)).items()}
    problems = unknown(f"option in {file}", given, known)
    problems += [
        f"{file}: {name} is a value or a list, not {value!r}"
        for name, value in given.items()
        if isinstance(value, Mapping) or any(isinstance(part, list | Mapping) for part in _listed(value))
    ]
    if problems:
        raise InputError(problems)
    return [word for name, value in given.items() for word in _words(name, value, known[name])]


def _read(path: Path) -> Mapping[str, Any]:
    if path.suffix.lower() not in READERS:
        raise InputError(f"{FLAG} {path}: a file of options is one of {', '.join(READERS)}")
    try:
        found = READERS[path.suffix.lower()](path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{FLAG} {path} cannot be read: {error.strerror}") from error
    except Exception as error:
        raise InputError(f"{FLAG} {path} is no {path.suffix[1:].upper()}: {' '.join(str(error).split())}") from error
    if not isinstance(found or {}, Mapping):
        raise InputError(f"{FLAG} {path} holds no options: they are written NAME: VALUE")
    return found or {}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _words(name: str, value: Any, default: Any) -> list[str]:
    """An option as it is typed."""
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, list):
        return [flag, *map(str, value)]
    if isinstance(default, bool) and isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    return [] if value is None and default is None else [f"{flag}={value}"]


def write_options(path: Path, options: Mapping[str, Any], command: str) -> None:
    """Write the `options` by name to `path`, with the `command` that repeats the sweep.

    A tracking URI with a password is left out.

    Raises:
        OSError: the file cannot be written.
    """
    import yaml

    kept = {name: value for name, value in options.items() if name not in NOT_WRITTEN and not _secret(value)}
    plain = {name: _plain(value) for name, value in kept.items()}
    head = f"# The options of this sweep. Again, in the same folder: {command}\n"
    path.write_text(head + yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=100))


def _secret(value: Any) -> bool:
    return isinstance(value, str) and public(value) != value


def _plain(value: Any) -> Any:
    """`value` in types that YAML has: tuples are lists, paths are text."""
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value
