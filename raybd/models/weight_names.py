"""How weights differ from those that a network has: in names and shapes."""

from collections.abc import Mapping, Sequence

from torch import Tensor

SHOWN = 5  # names in a message


def misfits(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """What is missing of the weights `given`, what is unexpected, and what is of another size; empty if they fit."""
    shapes = [
        f"{name} is {tuple(given[name].shape)} and should be {tuple(own[name].shape)}"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    parts = {
        "missing": [name for name in own if name not in given],
        "unexpected": [name for name in given if name not in own],
        "of another size": shapes,
    }
    return [f"{what}: {_some(names)}" for what, names in parts.items() if names]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
