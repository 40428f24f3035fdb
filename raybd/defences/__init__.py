"""Defences by name. A new one is a file here and a line in DEFENCES; docs/adding.md shows it."""

from raybd.defences.base import Defence, Scene
from raybd.defences.none import NoDefence
from raybd.defences.oracle import Oracle
from raybd.defences.vibe import Vibe

DEFENCES: dict[str, type[Defence]] = {
    "none": NoDefence,
    "oracle": Oracle,
    "vibe": Vibe,
}

__all__ = ["DEFENCES", "Defence", "NoDefence", "Oracle", "Scene"]
