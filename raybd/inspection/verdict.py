"""Verdict: where the figures of a network lie among those of clean ones, and how sure that can be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from raybd.inspection.figures import HIGH, JUDGED

Status = Literal["backdoored", "suspicious", "unremarkable", "unknown"]
Figures = Mapping[str, float]
TAKES_HOLD = 0.1  # attack success above that of every clean network with which a known trigger works, as on the map
COMPARABLE = 0.05  # of accuracy that it may be below the worst clean network


@dataclass(frozen=True)
class Verdict:
    """What is said of a network."""

    status: Status
    reason: str
    p: float | None  # rank p-value of the score among the clean networks; None where there is no score
    score: float | None
    clean_scores: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}"


def rank_p(value: float, others: Sequence[float], side: int = HIGH) -> float:
    """(1 + number of `others` at least as far on that `side`) / (1 + number of others).

    If `value` and `others` are exchangeable, it is at most t with a probability of at most t, whatever their law; the
    least that n others can give is 1 / (n + 1).
    """
    beyond = sum(side * other >= side * value for other in others)
    return (1 + beyond) / (1 + len(others))


def scores(networks: Sequence[Figures]) -> list[float]:
    """For each network the largest of its judged figures, in spreads from the median of all `networks`.

    A spread is 1.4826 times the median absolute deviation, at least a thousandth of the median's size. Every network
    enters alike, so that scores of exchangeable networks are exchangeable. Figures that a network lacks are left out.
    """
    names = [name for name in JUDGED if all(name in one for one in networks)]
    if not names:
        return []
    values = np.array([[JUDGED[name] * one[name] for name in names] for one in networks])
    middle = np.median(values, axis=0)
    spread = 1.4826 * np.median(np.abs(values - middle), axis=0)
    spread = np.maximum(spread, 1e-3 * np.maximum(np.abs(middle), 1e-3))
    return [float(worst) for worst in ((values - middle) / spread).max(1)]


def judge(network: Figures, clean: Sequence[Figures]) -> Verdict:
    """The verdict of a network beside `clean` ones."""
    found = scores([network, *clean])
    p = rank_p(found[0], found[1:]) if found else None
    status, reason = _said(network, clean, p)
    return Verdict(status, reason, p, found[0] if found else None, tuple(found[1:]))


def _said(network: Figures, clean: Sequence[Figures], p: float | None) -> tuple[Status, str]:
    worst, n = min(one["accuracy/clean"] for one in clean), len(clean)
    if network["accuracy/clean"] < worst - COMPARABLE:
        return "unknown", (
            f"it gets {network['accuracy/clean']:.1%} of the clean test images right, and clean networks at least "
            f"{worst:.1%}: is it given the images that it was trained for (mean and std, size, order of classes)?"
        )
    success = [one.get("attack_success", 0.0) for one in clean]
    if network.get("attack_success", 0.0) > max(success) + TAKES_HOLD:
        return "backdoored", (
            f"the trigger works: attack success {network['attack_success']:.1%}, in {n} clean networks "
            f"{min(success):.1%} to {max(success):.1%} (p = {1 / (n + 1):.2g}, the least that {n} can give)"
        )
    if p is None:
        return "unknown", "nothing could be measured that tells without a trigger (ONNX has no gradients)"
    return _ranked(network, clean, p)


def _ranked(network: Figures, clean: Sequence[Figures], p: float) -> tuple[Status, str]:
    n = len(clean)
    if p <= 1 / (n + 1):
        return "suspicious", (
            f"it lies beyond all {n} clean networks ({_farthest(network, clean)}; p = {p:.2g}, the least that {n} can "
            f"give: of clean networks trained the same way one in {n + 1} is called so too)"
        )
    more = round(p * (n + 1)) - 1
    return "unremarkable", (
        f"{more} of {n} clean networks look at least as suspicious (p = {p:.2g}); this does not show that it is clean"
    )


def _farthest(network: Figures, clean: Sequence[Figures]) -> str:
    """The judged figures that lie beyond those of every clean network, with these."""
    parts = []
    for name, side in JUDGED.items():
        known = [one[name] for one in clean if name in one]
        if name in network and known and rank_p(network[name], known, side) <= 1 / (1 + len(known)):
            parts.append(f"{name} {network[name]:.3g}, clean {min(known):.3g} to {max(known):.3g}")
    return "; ".join(parts) or "its figures together, none alone"
