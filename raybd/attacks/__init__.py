"""Attacks by name. A new one is a file here and a line in ATTACKS; docs/adding.md shows it."""

from raybd.attacks.badnets import BadNets
from raybd.attacks.base import Attack
from raybd.attacks.blended import Blended
from raybd.attacks.none import NoAttack

ATTACKS: dict[str, type[Attack]] = {
    "badnets": BadNets,
    "blended": Blended,
    "none": NoAttack,
}

__all__ = ["ATTACKS", "Attack", "BadNets", "Blended", "NoAttack"]
