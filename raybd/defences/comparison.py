"""How well a defence told poison from the rest; computed with the truth, which no defence sees."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from raybd.defences.base import FLAGGED, SUSPICION
from raybd.types import POISON, Images, Poisoned
from raybd.utils.statistics import auroc

SUSPECTS = 48  # images in the picture of what a defence suspects


@dataclass(frozen=True)
class Suspects:
    """The training images that a defence suspects most, first first, with the truth beside."""

    images: Images
    suspicion: Tensor  # (n,)
    roles: Tensor  # (n,)


def compare_with_truth(findings: Mapping[str, Tensor], roles: Tensor) -> dict[str, float]:
    """Precision and recall of the flagged images as poison, the share of the rest that was flagged, and the AUROC of
    the suspicion, of a training set of `roles` (N,).

    What is not defined (nothing flagged, no suspicion kept) is left out. Where nothing was planted only the share of
    flagged images is told: of data that are suspected themselves nobody knows which of the flags are right.
    """
    poison = (roles == POISON).cpu().numpy()
    numbers: dict[str, float] = {}
    if FLAGGED in findings:
        numbers["flagged"] = float(findings[FLAGGED].float().mean())
    if not poison.any():
        return numbers
    if FLAGGED in findings:
        flagged = findings[FLAGGED].cpu().numpy()
        shares = {"precision": poison[flagged], "recall": flagged[poison], "false_alarms": flagged[~poison]}
        numbers |= {name: float(share.mean()) for name, share in shares.items() if len(share)}
    if SUSPICION in findings and not poison.all():
        scores = findings[SUSPICION].cpu().numpy().astype(np.float64)
        numbers["auroc"] = auroc(scores[~poison], scores[poison])
    return numbers


def most_suspected(poisoned: Poisoned, suspicion: Tensor | None) -> Suspects | None:
    """Those whose `suspicion` (N,) is highest; None where a defence has none."""
    if suspicion is None:
        return None
    first = suspicion.argsort(descending=True, stable=True)[:SUSPECTS]
    there = first.to(poisoned.roles.device)  # findings of most defences lie on the CPU, wherever they trained
    return Suspects(poisoned.images.take(there), suspicion[first], poisoned.roles[there])
