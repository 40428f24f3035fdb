"""Attacks by name. A new one is a file here and a line in the table; docs/adding.md shows it."""

from dataclasses import fields
from typing import Any

from raybd import plugins
from raybd.attacks.adaptive_blend import AdaptiveBlend
from raybd.attacks.adaptive_k_way import AdaptiveKWay
from raybd.attacks.adaptive_patch import AdaptivePatch
from raybd.attacks.advdoor import AdvDoor
from raybd.attacks.badnets import BadNets
from raybd.attacks.base import Attack, CoveredAttack, Member, Trigger
from raybd.attacks.batt import Batt
from raybd.attacks.blended import Blended
from raybd.attacks.bpp import Bpp
from raybd.attacks.ctrl import Ctrl
from raybd.attacks.ftrojan import FTrojan
from raybd.attacks.input_aware import InputAware
from raybd.attacks.invisible_grid import InvisibleGrid
from raybd.attacks.label_consistent import LabelConsistent
from raybd.attacks.low_frequency import LowFrequency
from raybd.attacks.many_triggers import ManyTriggers
from raybd.attacks.multi import Multi
from raybd.attacks.narcissus import Narcissus
from raybd.attacks.none import NoAttack
from raybd.attacks.placed import Placed
from raybd.attacks.primitive import Primitive
from raybd.attacks.sig import Sig
from raybd.attacks.ssba import Ssba
from raybd.attacks.tact import TaCT
from raybd.attacks.universal import Universal
from raybd.attacks.view_invariant import ViewInvariant
from raybd.attacks.wanet import WaNet

_ATTACKS: dict[str, type[Attack]] = {
    "adaptive_blend": AdaptiveBlend,
    "adaptive_k_way": AdaptiveKWay,
    "adaptive_patch": AdaptivePatch,
    "advdoor": AdvDoor,
    "badnets": BadNets,
    "batt": Batt,
    "blended": Blended,
    "bpp": Bpp,
    "ctrl": Ctrl,
    "ftrojan": FTrojan,
    "input_aware": InputAware,
    "invisible_grid": InvisibleGrid,
    "label_consistent": LabelConsistent,
    "low_frequency": LowFrequency,
    "many_triggers": ManyTriggers,
    "multi": Multi,
    "narcissus": Narcissus,
    "none": NoAttack,
    "placed": Placed,
    "primitive": Primitive,
    "sig": Sig,
    "ssba": Ssba,
    "tact": TaCT,
    "universal": Universal,
    "view_invariant": ViewInvariant,
    "wanet": WaNet,
}
ATTACKS = plugins.Table("attack", Attack, _ATTACKS)  # type: ignore[type-abstract]

__all__ = [
    "ATTACKS",
    "Attack",
    "BadNets",
    "Blended",
    "CoveredAttack",
    "Member",
    "Multi",
    "NoAttack",
    "Trigger",
    "describe",
    "parse",
]


def parse(text: str, **common: Any) -> Attack:
    """The attack written as NAME, NAME:PRESET or NAME:SETTING=VALUE,..., NAME also being MODULE:CLASS; `common` where
    the text says nothing else.

    Raises:
        InputError: the name, the preset or a setting is unknown, or a value is of no use.
    """
    return plugins.parse("attack", ATTACKS, text, **common)


def describe(attack: Attack) -> str:
    """`attack` as `parse` reads it, without the settings that all attacks have."""
    return plugins.describe(ATTACKS, attack, [f.name for f in fields(Attack)])
