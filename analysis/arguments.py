"""Checks of what the public calls of a map are given, besides axes and tables."""

import os
from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.frame_checks import check_table
from raybd.errors import InputError


def check_flag(name: str, value: object) -> None:
    """Raise an InputError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise InputError(f"{name} must be True or False, got {value!r}")


def check_path(what: str, path: object) -> None:
    """Raise an InputError unless `path` is a path: a text or a `pathlib.Path`."""
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{what} must be a path, got {path!r}")


def check_store(experiment: object, tracking_uri: object) -> None:
    """Raise an InputError unless `experiment` is a name or several, and `tracking_uri` a text or None."""
    names = [experiment] if isinstance(experiment, str) else experiment
    found = []
    if not isinstance(names, Sequence) or not names or not all(isinstance(name, str) and name for name in names):
        found.append(f"an experiment is given by its name, several by a list of names, got {experiment!r}")
    if not isinstance(tracking_uri, str | None):
        found.append(f"tracking_uri must be a text or None, got {tracking_uri!r}")
    if found:
        raise InputError(found)


def check_layers(layers: object, required: Sequence[str]) -> None:
    """Raise an InputError unless `layers` are tables of trials by the names of their sources."""
    if not isinstance(layers, Mapping) or not layers:
        raise InputError(f"layers are tables by the names of their sources, at least one, got {type(layers).__name__}")
    if bad := [repr(name) for name in layers if not isinstance(name, str) or not name]:
        raise InputError(f"the name of a source is a text, got {', '.join(bad)}")
    found = [f"{name}: {problem}" for name, frame in layers.items() for problem in _problems(frame, required)]
    if found:
        raise InputError(found)


def _problems(frame: pd.DataFrame, required: Sequence[str]) -> list[str]:
    try:
        check_table(frame, required)
    except InputError as error:
        return error.problems
    return []
