"""The gate: a poisoned set is what was asked for, or no training starts."""

from typing import Any

import torch
from torch import Tensor

from raybd.attacks.base import Attack
from raybd.attacks.poisoning import PoisonSpec, digest
from raybd.errors import PoisoningError
from raybd.types import CLEAN, COVER, POISON, Images, Poisoned

LEAST_CHANGED = 0.5  # share of poisoned images that must differ from their originals after rounding
PROBE = 64  # poisoned images stamped again on the test path


def verify_poisoning(recipe: PoisonSpec, clean: Images, poisoned: Poisoned, classes: int) -> dict[str, Any]:
    """The manifest of `poisoned`, made from `clean` by `recipe`.

    Raises:
        PoisoningError: naming each number that is not what was asked.
    """
    at = {role: (poisoned.roles == role).nonzero().squeeze(1) for role in (CLEAN, POISON, COVER)}
    problems = recipe.attack.check(clean.shape, classes)
    problems += _untouched(clean, poisoned, at[CLEAN], at[COVER])
    for k, member in enumerate(recipe.attack.members()):
        index = {role: at[role][poisoned.member[at[role]] == k] for role in (POISON, COVER)}
        found = _counts(recipe, len(clean), k, index)
        found += _labels(member.attack, clean.y[index[POISON]], poisoned.images.y[index[POISON]], classes)
        found += _changed(clean, poisoned, index[POISON])
        found += _same_trigger(recipe, clean, poisoned, k, index[POISON][:PROBE], classes)
        problems += [f"{member.name}: {problem}" if member.name else problem for problem in found]
    if problems:
        raise PoisoningError("the gate refuses this poisoned set: " + "; ".join(problems))
    return _manifest(recipe, clean, poisoned, at)


def _manifest(recipe: PoisonSpec, clean: Images, poisoned: Poisoned, at: dict[int, Tensor]) -> dict[str, Any]:
    before, after = clean.x[at[POISON]], poisoned.images.x[at[POISON]]
    difference = (after.float() - before.float()).flatten(1) / 255
    names = [member.name for member in recipe.attack.members()]
    counts = torch.bincount(poisoned.member[at[POISON]].long(), minlength=len(names)).tolist()
    return {
        "poison": len(at[POISON]),
        "cover": len(at[COVER]),
        "clean": len(at[CLEAN]),
        "trigger": ",".join(poisoned.triggers),
        "indices": digest(at[POISON]),
        "cover_indices": digest(at[COVER]),
        "changed": _mean((before != after).flatten(1).any(1)),
        "l2": _mean(difference.norm(dim=1)),
        "linf": _mean(difference.abs().amax(1)) if len(after) else 0.0,
    } | ({"members": dict(zip(names, counts, strict=True))} if len(names) > 1 else {})


def _untouched(clean: Images, poisoned: Poisoned, others: Tensor, covers: Tensor) -> list[str]:
    found = []
    if not torch.equal(clean.x[others], poisoned.images.x[others]):
        found.append("images outside the poison and the covers have changed")
    kept = torch.cat([others, covers])
    if wrong := int((clean.y[kept] != poisoned.images.y[kept]).sum()):
        found.append(f"{wrong} labels outside the poison have changed")
    return found


def _counts(recipe: PoisonSpec, n: int, member: int, index: dict[int, Tensor]) -> list[str]:
    asked = recipe.counts(n)[member]
    covers = recipe.attack.members()[member].attack.cover_count(asked)
    found = [] if len(index[POISON]) == asked else [f"{len(index[POISON])} images are poisoned, {asked} were asked for"]
    if len(index[COVER]) != covers:
        found.append(f"{len(index[COVER])} images are covers, {covers} were asked for")
    return found


def _labels(attack: Attack, true: Tensor, given: Tensor, classes: int) -> list[str]:
    """Each rule for labels said once more, apart from the code that follows it."""
    found = []
    if outside := int((~attack.eligible(true)).sum()):
        found.append(f"{outside} poisoned images are of classes that the attack leaves alone")
    if attack.clean_label:
        right = given == true
    elif attack.many_targets:
        right = (given != true) & (given >= 0) & (given < classes)
    elif attack.labels == "all_to_all":
        right = (given - true) % classes == 1
    else:
        right = given == attack.target
    if wrong := int((~right).sum()):
        found.append(f"{wrong} labels are not what the attack makes of them")
    return found


def _changed(clean: Images, poisoned: Poisoned, index: Tensor) -> list[str]:
    share = _mean((clean.x[index] != poisoned.images.x[index]).flatten(1).any(1))
    if len(index) == 0 or share >= LEAST_CHANGED:
        return []
    return [f"the trigger changes only {share:.1%} of the poisoned images after rounding to 8 bits"]


def _same_trigger(
    recipe: PoisonSpec, clean: Images, poisoned: Poisoned, member: int, index: Tensor, classes: int
) -> list[str]:
    """The pattern must be the same; so must be the pixels, unless the attack hides its trigger in training."""
    train, test = poisoned.triggers[member], digest(recipe.trigger(clean.shape, classes, member))
    attack = recipe.attack.members()[member].attack
    given = poisoned.images.y[index]
    known = bool(((given >= 0) & (given < classes)).all())  # others are refused for their labels
    if train == test and known and type(attack).stamp_training is Attack.stamp_training:
        train = digest(poisoned.images.x[index])
        test = digest(recipe.triggered_by(member, clean.take(index), classes, given).x)
    return [] if test == train else [f"the trigger in training ({train}) is not that at test ({test})"]


def _mean(x: Tensor) -> float:
    return float(x.double().mean()) if len(x) else 0.0
