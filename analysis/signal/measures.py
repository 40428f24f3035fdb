"""The measures of a training that may foretell the verdict, and what somebody must know to take them."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from raybd.utils.metric_names import (
    ACCURACY,
    ATTACK_SUCCESS,
    CLASS_INFORMATION,
    DECODABILITY,
    DIRECTION,
    FRESH,
    GAP,
    ISOTROPIC,
    S1,
    S_DEV,
    SEMANTICS,
    SIGNATURE,
)

Needs = Literal["nothing", "twin", "trigger"]
RANDOM = "random (control)"
SUCCESS_SLOPE, LOSS_SLOPE = "attack_success/slope", "loss/train/slope"  # an epoch
SLOPES = {SUCCESS_SLOPE: ATTACK_SUCCESS, LOSS_SLOPE: "loss/train"}  # made by `observe` from the history


@dataclass(frozen=True)
class Measure:
    """Metrics by a pattern of their names, and what their measurement needs beyond the training itself.

    nothing: a defender has it; twin: a clean training beside; trigger: the attacker's trigger, which no defender knows.
    """

    pattern: str
    needs: Needs


MEASURES = (
    Measure(RANDOM, "nothing"),
    Measure("loss/train", "nothing"),
    Measure(LOSS_SLOPE, "nothing"),
    Measure("loss/clean", "nothing"),
    Measure(ACCURACY, "nothing"),
    Measure("smoothness/clean/sigma_*", "nothing"),
    Measure("mi/xt/random", "nothing"),
    Measure("mi/st/random", "nothing"),
    Measure("defender/*/*", "nothing"),
    Measure(ATTACK_SUCCESS, "trigger"),
    Measure(SUCCESS_SLOPE, "trigger"),
    Measure("loss/triggered", "trigger"),
    Measure(f"{GAP}/triggered/sigma_*", "trigger"),
    Measure("smoothness/triggered/sigma_*", "trigger"),
    Measure(f"mi/xt/{FRESH}", "trigger"),
    Measure(f"mi/ty/{FRESH}/lower", "trigger"),
    Measure(CLASS_INFORMATION, "trigger"),
    Measure(SIGNATURE, "twin"),
    Measure(ISOTROPIC, "twin"),
    Measure(DIRECTION, "twin"),
    Measure(S1, "twin"),
    Measure(S_DEV, "twin"),
    Measure(DECODABILITY, "trigger"),
    Measure(SEMANTICS, "trigger"),
    Measure("stealth/l2", "trigger"),
    Measure("stealth/psnr", "trigger"),
    Measure("stealth/ssim_reflect11", "trigger"),
    Measure("curve/epoch50", "trigger"),
)


def measured(names: Iterable[str]) -> dict[str, Needs]:
    """Those of `names` that are measures, in the order of MEASURES, with what they need."""
    known = list(names)
    return {
        name: measure.needs
        for measure in MEASURES
        for name in sorted(known)
        if name.count("/") == measure.pattern.count("/") and fnmatchcase(name, measure.pattern)
    }
