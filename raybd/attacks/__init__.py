"""Attacks by name. A new one is a file here and a line in ATTACKS; docs/adding.md shows it."""

import json
import re
from dataclasses import fields
from typing import Any

from raybd.attacks.adaptive_blend import AdaptiveBlend
from raybd.attacks.adaptive_k_way import AdaptiveKWay
from raybd.attacks.adaptive_patch import AdaptivePatch
from raybd.attacks.badnets import BadNets
from raybd.attacks.base import Attack, CoveredAttack, Member, Trigger
from raybd.attacks.batt import Batt
from raybd.attacks.blended import Blended
from raybd.attacks.bpp import Bpp
from raybd.attacks.ctrl import Ctrl
from raybd.attacks.ftrojan import FTrojan
from raybd.attacks.invisible_grid import InvisibleGrid
from raybd.attacks.label_consistent import LabelConsistent
from raybd.attacks.low_frequency import LowFrequency
from raybd.attacks.multi import Multi
from raybd.attacks.none import NoAttack
from raybd.attacks.primitive import Primitive
from raybd.attacks.sig import Sig
from raybd.attacks.tact import TaCT
from raybd.attacks.universal import Universal
from raybd.attacks.wanet import WaNet
from raybd.errors import InputError
from raybd.plugins import build, spec, unknown

ATTACKS: dict[str, type[Attack]] = {
    "adaptive_blend": AdaptiveBlend,
    "adaptive_k_way": AdaptiveKWay,
    "adaptive_patch": AdaptivePatch,
    "badnets": BadNets,
    "batt": Batt,
    "blended": Blended,
    "bpp": Bpp,
    "ctrl": Ctrl,
    "ftrojan": FTrojan,
    "invisible_grid": InvisibleGrid,
    "label_consistent": LabelConsistent,
    "low_frequency": LowFrequency,
    "multi": Multi,
    "none": NoAttack,
    "primitive": Primitive,
    "sig": Sig,
    "tact": TaCT,
    "universal": Universal,
    "wanet": WaNet,
}

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
    """The attack that a person writes as NAME, NAME:PRESET, NAME:SETTING=VALUE or NAME:PRESET,SETTING=VALUE.

    Values are JSON, or words as they stand; `common` settings hold where the text says nothing else.

    Raises:
        InputError: the name, the preset or a setting is unknown, or a value is of no use.
    """
    name, _, rest = text.partition(":")
    if found := unknown("attack", [name], ATTACKS):
        raise InputError(found)
    settings: dict[str, Any] = {}
    for piece in re.split(r",(?![^\[]*\])", rest) if rest else []:
        key, equals, value = piece.partition("=")
        if not equals and (found := unknown(f"preset of {name}", [key], ATTACKS[name].presets)):
            raise InputError(found)
        settings |= {key: _value(value)} if equals else dict(ATTACKS[name].presets[key])
    return build("attack", ATTACKS, {"name": name} | common | settings)


def describe(attack: Attack) -> str:
    """`attack` as `parse` reads it: its name, and those of its own settings that are not the defaults."""
    plain = spec(ATTACKS, attack)
    usual = spec(ATTACKS, ATTACKS[plain["name"]]())
    common = {f.name for f in fields(Attack)}
    said = [f"{k}={json.dumps(v)}".replace(" ", "") for k, v in plain.items() if v != usual[k] and k not in common]
    return str(plain["name"]) + (":" + ",".join(said) if said else "")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
