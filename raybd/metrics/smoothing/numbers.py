"""From votes to named numbers: `smoothness/<variant>/sigma_<s>` and what stands beside it."""

import logging
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from raybd.metrics.smoothing.certificate import efficiency, lipschitz_violations
from raybd.metrics.smoothing.compare import paired_gap
from raybd.metrics.smoothing.entropy import (
    Counts,
    Values,
    agreement,
    gini,
    grassberger,
    normalised,
    plug_in,
    shares_entropy,
    unanimous,
)
from raybd.metrics.smoothing.plans import CLEAN, TARGET_CLASS, TRIGGERED, TWIN, TWIN_CLEAN
from raybd.utils.statistics import auroc

log = logging.getLogger(__name__)
FEWEST = 2  # points of a gap


@dataclass(frozen=True)
class Shown:
    """One variant at one sigma."""

    votes: Counts  # (N, K)
    first: Counts  # (N, K), of as many draws for every point: means rest on these
    soft: Values  # (N, K)
    calm: NDArray[np.int64]  # (N,) the class without noise
    lengths: Values  # (N,) L2 from the clean image


def numbers(shown: dict[str, Shown], wanted: NDArray[np.int64], sigma: float, looks: int) -> dict[str, float]:
    """Every number of one sigma, by name. `shown` holds "clean"; `wanted` (N,) are the attacker's classes."""
    found = {name: value for v, context in shown.items() for name, value in _level(v, context, wanted).items()}
    for variant, context in shown.items():
        if variant not in (CLEAN, TWIN_CLEAN, TARGET_CLASS):
            found |= _gap(variant, shown[TWIN_CLEAN if variant in TWIN else CLEAN], context, sigma, looks)
    if TRIGGERED in shown:
        found |= _trigger(shown[CLEAN], shown[TRIGGERED], wanted, sigma)
    if TARGET_CLASS in shown:
        found |= _within_class(shown)
    return {f"smoothness/{name}/sigma_{sigma:g}": value for name, value in found.items()}


def _level(variant: str, context: Shown, wanted: NDArray[np.int64]) -> dict[str, float]:
    entropy = plug_in(context.votes)
    found = {
        "": grassberger(context.first).mean(),
        "/plug_in": entropy.mean(),
        "/median": np.median(entropy),
        "/normalised": normalised(grassberger(context.first), context.first.shape[1]).mean(),
        "/soft": shares_entropy(context.soft).mean(),
        "/gini": gini(context.votes).mean(),
        "/agreement": agreement(context.votes, context.calm).mean(),
        "/unanimous": unanimous(context.votes).mean(),
    }
    if variant != TARGET_CLASS:
        found["/wanted"] = (context.votes.argmax(1) == wanted).mean()
    return {variant + name: float(value) for name, value in found.items()}


def _gap(variant: str, clean: Shown, context: Shown, sigma: float, looks: int) -> dict[str, float]:
    found = asdict(paired_gap(clean.votes, context.votes, (clean.first, context.first)))
    gap = {f"gap/{variant}/{name}": value for name, value in found.items()}
    gap[f"gap/{variant}"] = gap.pop(f"gap/{variant}/mean")
    broken = lipschitz_violations(clean.votes, context.votes, context.lengths, sigma, looks)
    if broken:
        log.error(
            "smoothness of %s at sigma %g: %d pairs of point and class break a bound that holds for every network",
            *(variant, sigma, broken),
        )
    return gap | {f"lipschitz_violations/{variant}": float(broken)}


def _trigger(clean: Shown, triggered: Shown, wanted: NDArray[np.int64], sigma: float) -> dict[str, float]:
    """What only the trigger has: its efficiency, and the gap of its successes alone."""
    found = {}
    if triggered.lengths.any():
        eta = efficiency(clean.votes, triggered.votes, wanted, triggered.lengths, sigma)
        found["eta"] = float(np.nanmean(eta))
    hit = triggered.calm == wanted
    if hit.sum() >= FEWEST:
        found["gap_of_successes"] = paired_gap(clean.first[hit], triggered.first[hit]).mean
    return found


def _within_class(shown: dict[str, Shown]) -> dict[str, float]:
    """AUROC of -W: genuine points of the target class against clean ones, triggered ones against the genuine."""
    scores = {v: -plug_in(shown[v].votes) for v in (CLEAN, TRIGGERED, TARGET_CLASS) if v in shown}
    found = {"auroc_target_class": auroc(scores[CLEAN], scores[TARGET_CLASS])}
    if TRIGGERED in scores:
        found["auroc_within_class"] = auroc(scores[TARGET_CLASS], scores[TRIGGERED])
    return found
