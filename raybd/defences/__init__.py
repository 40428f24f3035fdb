"""Defences by name. A new one is a file here and a line in DEFENCES; docs/adding.md shows it."""

from raybd.defences.base import Defence
from raybd.defences.none import NoDefence

DEFENCES: dict[str, type[Defence]] = {
    "none": NoDefence,
}

__all__ = ["DEFENCES", "Defence", "NoDefence"]
