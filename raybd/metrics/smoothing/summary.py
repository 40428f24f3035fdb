"""Metrics of counted votes, by name: `smoothness/<variant>/sigma_<s>`, gaps between variants, AUROCs."""

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
    plug_in_entropy,
    shares_entropy,
    unanimous,
)
from raybd.metrics.smoothing.sampling_plan import CLEAN, TARGET_CLASS, TRIGGERED, TWIN, TWIN_CLEAN
from raybd.utils.statistics import auroc

log = logging.getLogger(__name__)
MIN_POINTS = 2  # that a gap needs for its standard error


@dataclass(frozen=True)
class VariantVotes:
    """The votes on one variant of N points at one sigma."""

    votes: Counts  # (N, K)
    first: Counts  # (N, K), of as many draws for every point: means rest on these
    soft: Values  # (N, K), the mean softmax
    noiseless: NDArray[np.int64]  # (N,) the class without noise
    lengths: Values  # (N,) L2 distance from the clean image


def vote_metrics(
    variants: dict[str, VariantVotes], wanted: NDArray[np.int64], sigma: float, looks: int
) -> dict[str, float]:
    """Every metric of one sigma, by name, of `variants` by name, "clean" among them.

    `wanted` (N,) are the attacker's classes, `looks` the number of times at which drawing could stop.
    """
    found = {name: value for v, votes in variants.items() for name, value in _entropies(v, votes, wanted).items()}
    for variant, votes in variants.items():
        if variant not in (CLEAN, TWIN_CLEAN, TARGET_CLASS):
            found |= _gap(variant, variants[TWIN_CLEAN if variant in TWIN else CLEAN], votes, sigma, looks)
    if TRIGGERED in variants:
        found |= _trigger(variants[CLEAN], variants[TRIGGERED], wanted, sigma)
    if TARGET_CLASS in variants:
        found |= _within_class(variants)
    return {f"smoothness/{name}/sigma_{sigma:g}": value for name, value in found.items()}


def _entropies(variant: str, own: VariantVotes, wanted: NDArray[np.int64]) -> dict[str, float]:
    entropy = plug_in_entropy(own.votes)
    found = {
        "": grassberger(own.first).mean(),
        "/plug_in": entropy.mean(),
        "/median": np.median(entropy),
        "/normalised": normalised(grassberger(own.first), own.first.shape[1]).mean(),
        "/soft": shares_entropy(own.soft).mean(),
        "/gini": gini(own.votes).mean(),
        "/agreement": agreement(own.votes, own.noiseless).mean(),
        "/unanimous": unanimous(own.votes).mean(),
    }
    if variant != TARGET_CLASS:
        found["/wanted"] = (own.votes.argmax(1) == wanted).mean()
    return {variant + name: float(value) for name, value in found.items()}


def _gap(variant: str, clean: VariantVotes, other: VariantVotes, sigma: float, looks: int) -> dict[str, float]:
    found = asdict(paired_gap(clean.votes, other.votes, (clean.first, other.first)))
    gap = {f"gap/{variant}/{name}": value for name, value in found.items()}
    gap[f"gap/{variant}"] = gap.pop(f"gap/{variant}/mean")
    broken = lipschitz_violations(clean.votes, other.votes, other.lengths, sigma, looks)
    if broken:
        log.error(
            "smoothness of %s at sigma %g: %d pairs of point and class break a bound that holds for every network",
            *(variant, sigma, broken),
        )
    return gap | {f"lipschitz_violations/{variant}": float(broken)}


def _trigger(clean: VariantVotes, triggered: VariantVotes, wanted: NDArray[np.int64], sigma: float) -> dict[str, float]:
    """Metrics of the trigger alone: its efficiency, and the gap over the points where it succeeds."""
    found = {}
    if triggered.lengths.any():
        eta = efficiency(clean.votes, triggered.votes, wanted, triggered.lengths, sigma)
        found["eta"] = float(np.nanmean(eta))
    success = triggered.noiseless == wanted
    if success.sum() >= MIN_POINTS:
        found["gap_of_successes"] = paired_gap(clean.first[success], triggered.first[success]).mean
    return found


def _within_class(variants: dict[str, VariantVotes]) -> dict[str, float]:
    """AUROC of -W: genuine points of the target class against clean ones, triggered ones against the genuine."""
    scores = {v: -plug_in_entropy(variants[v].votes) for v in (CLEAN, TRIGGERED, TARGET_CLASS) if v in variants}
    found = {"auroc_target_class": auroc(scores[CLEAN], scores[TARGET_CLASS])}
    if TRIGGERED in scores:
        found["auroc_within_class"] = auroc(scores[TARGET_CLASS], scores[TRIGGERED])
    return found
