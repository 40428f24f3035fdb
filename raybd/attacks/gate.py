"""The gate: a poisoned set is what was asked for, or no training starts."""

from typing import Any

import torch
from torch import Tensor

from raybd.attacks.recipe import Recipe, digest
from raybd.errors import GateError
from raybd.types import CLEAN, COVER, POISON, Images, Poisoned

LEAST_CHANGED = 0.5  # share of poisoned images that must differ from their originals after rounding
PROBE = 64  # poisoned images stamped again on the test path


def inspect(recipe: Recipe, clean: Images, poisoned: Poisoned, classes: int) -> dict[str, Any]:
    """The manifest of `poisoned`, made from `clean` by `recipe`.

    Raises:
        GateError: naming each number that is not what was asked.
    """
    at = {role: (poisoned.roles == role).nonzero().squeeze(1) for role in (CLEAN, POISON, COVER)}
    before, after = clean.x[at[POISON]], poisoned.images.x[at[POISON]]
    changed = (before != after).flatten(1).any(1)
    problems = _counts(recipe, len(clean), len(at[POISON]))
    problems += _labels(recipe, clean, poisoned, classes)
    problems += _pixels(clean, poisoned, at[CLEAN], changed)
    problems += _same_trigger(recipe, clean, poisoned, at[POISON][:PROBE], classes)
    if problems:
        raise GateError("the gate refuses this poisoned set: " + "; ".join(problems))
    difference = (after.float() - before.float()).flatten(1) / 255
    return {
        "poison": len(at[POISON]),
        "cover": len(at[COVER]),
        "clean": len(at[CLEAN]),
        "trigger": digest(recipe.trigger(clean.shape)),
        "indices": digest(at[POISON]),
        "changed": _mean(changed),
        "l2": _mean(difference.norm(dim=1)),
        "linf": _mean(difference.abs().amax(1)) if len(after) else 0.0,
    }


def _counts(recipe: Recipe, n: int, count: int) -> list[str]:
    asked = recipe.count(n)
    return [] if count == asked else [f"{count} images are poisoned, {asked} were asked for"]


def _labels(recipe: Recipe, clean: Images, poisoned: Poisoned, classes: int) -> list[str]:
    expected = clean.y.clone()
    if not recipe.attack.clean_label:
        expected = torch.where(poisoned.roles == POISON, recipe.attack.wanted(clean.y, classes), expected)
    wrong = int((expected != poisoned.images.y).sum())
    return [f"{wrong} labels are not what the attack makes of them"] if wrong else []


def _pixels(clean: Images, poisoned: Poisoned, untouched: Tensor, changed: Tensor) -> list[str]:
    found = []
    if not torch.equal(clean.x[untouched], poisoned.images.x[untouched]):
        found.append("images outside the poison and the covers have changed")
    if len(changed) and _mean(changed) < LEAST_CHANGED:
        found.append(f"the trigger changes only {_mean(changed):.1%} of the poisoned images after rounding to 8 bits")
    return found


def _same_trigger(recipe: Recipe, clean: Images, poisoned: Poisoned, index: Tensor, classes: int) -> list[str]:
    test = digest(recipe.triggered(clean.take(index), classes).x)
    train = digest(poisoned.images.x[index])
    return [] if test == train else [f"the trigger in training ({train}) is not that at test ({test})"]


def _mean(x: Tensor) -> float:
    return float(x.double().mean()) if len(x) else 0.0
