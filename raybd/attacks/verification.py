"""The gate: a poisoned set is what was asked for, or no training starts."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from raybd.attacks.base import Attack
from raybd.attacks.poisoning import PoisonSpec, digest
from raybd.errors import PoisoningError
from raybd.pixels import batches_of, is_streamed
from raybd.types import CLEAN, COVER, POISON, Images, Poisoned

LEAST_CHANGED = 0.5  # share of poisoned images that must differ from their originals after rounding
LOOKED_AT = 4096  # images outside the poison that are compared with their originals, of a set that is streamed
PART = 2**21  # values that are compared at a time
PROBE = 64  # poisoned images stamped again on the test path


def verify_poisoning(recipe: PoisonSpec, clean: Images, poisoned: Poisoned, classes: int) -> dict[str, Any]:
    """The manifest of `poisoned`, made from `clean` by `recipe`.

    Raises:
        PoisoningError: naming each number that is not what was asked.
    """
    recipe = recipe.on(clean, classes)
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
    size = _sizes(clean, poisoned, at[POISON])
    names = [member.name for member in recipe.attack.members()]
    counts = torch.bincount(poisoned.member[at[POISON]].long(), minlength=len(names)).tolist()
    return {
        "poison": len(at[POISON]),
        "cover": len(at[COVER]),
        "clean": len(at[CLEAN]),
        "trigger": ",".join(poisoned.triggers),
        "indices": digest(at[POISON]),
        "cover_indices": digest(at[COVER]),
        "changed": _mean(size.changed),
        "l2": _mean(size.l2),
        "linf": _mean(size.linf),
    } | ({"members": dict(zip(names, counts, strict=True))} if len(names) > 1 else {})


def _untouched(clean: Images, poisoned: Poisoned, others: Tensor, covers: Tensor) -> list[str]:
    found = []
    seen = others[:: max(1, len(others) // LOOKED_AT)] if is_streamed(clean.x) else others
    if not all(torch.equal(before, after) for before, after in _both(clean, poisoned, seen)):
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
    share = _mean(_sizes(clean, poisoned, index).changed)
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


class _Sizes(NamedTuple):
    """How far images (n,) are from their originals: whether at all, and norms of the difference in [0, 1]."""

    changed: Tensor
    l2: Tensor
    linf: Tensor


def _sizes(clean: Images, poisoned: Poisoned, index: Tensor) -> _Sizes:
    found, start = torch.zeros(3, len(index)), 0  # before the loop: small tensors between large ones break up the heap
    for before, after in _both(clean, poisoned, index):
        difference = after.float().sub_(before).flatten(1).div_(255)
        here = found[:, start : start + len(before)]
        here[0], here[1] = (before != after).flatten(1).any(1), difference.norm(dim=1)
        here[2] = difference.abs_().amax(1)
        start += len(before)
    return _Sizes(*found)


def _both(clean: Images, poisoned: Poisoned, index: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The images at `index` before and after, some at a time."""
    parts = index.split(max(1, PART // math.prod(clean.shape))) if len(index) else ()
    return zip(batches_of(clean.x, parts), batches_of(poisoned.images.x, parts), strict=True)


def _mean(x: Tensor) -> float:
    return float(x.double().mean()) if len(x) else 0.0
