"""The stealth scores S_dev and S1, from the history of a trial: a list of {"epoch": ..., "metrics": {...}}."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raybd.metrics.base import History, measured_only
from raybd.metrics.information.signature import ratio

KINDS = ("xt", "ty")
PHASES = (5 / 120, 40 / 120, 100 / 120)  # early learning, compression and convergence, as the paper samples them


def stealth_scores(history: History) -> dict[str, float]:
    """S_dev and S1 of a trial's `history`, each with its null; {} where there is no twin or no backdoor."""
    measured = [entry for entry in history if "mi/samples" in entry["metrics"]]
    signed = [entry for entry in history if "mi/signature/saturated" in entry["metrics"]]
    return s_dev(phase_entries(measured)) | s1(phase_entries(signed))


def phase_entries(history: History) -> list[Mapping[str, Any]]:
    """The entries nearest to the paper's epochs 5, 40 and 100 of 120, in proportion to the last epoch."""
    if not history:
        return []
    last = history[-1]["epoch"]
    nearest = {min(range(len(history)), key=lambda i: abs(history[i]["epoch"] - share * last)) for share in PHASES}
    return [history[i] for i in sorted(nearest)]


def s_dev(entries: History) -> dict[str, float]:
    """S_dev, the authors' development metric, in [0, 4], lower being stealthier, and the same of the clean twin.

    At each epoch the values of the target group g and of the clean classes are brought to [0, 1] by their least and
    largest; d(g) is the mean over epochs of |mean_c (q_g - q_c)|, summed over xt and ty and over g = target_clean and
    target. It is free of scale: where all classes agree to 0.01 nats it may still be near 4, and clean networks score
    as high as poisoned ones. Hence the null: the twin's target class in both places of g. What rests on a saturated
    value, or on bounds too far apart to have a middle, cannot be told: it is left out, and .../saturated is 1.
    """
    if not any(f"mi/control/{kind}/target_clean" in entry["metrics"] for entry in entries for kind in KINDS):
        return {}
    found: dict[str, float] = {}
    for kind in KINDS:
        sizes = [_mean_difference(entries, f"mi/{kind}", group) for group in ("target_clean", "target")]
        null = _mean_difference(entries, f"mi/control/{kind}", "target_clean")
        found |= {f"stealth/s_dev/{kind}": sum(sizes), f"stealth/s_dev/{kind}/null": 2 * null}
    for end in ("", "/null"):
        found[f"stealth/s_dev{end}"] = sum(found[f"stealth/s_dev/{kind}{end}"] for kind in KINDS)
    return measured_only(found) | _saturation(entries)


def _saturation(entries: History) -> dict[str, float]:
    """Whether any value that S_dev rests on is saturated or only bounded, by kind and in all."""
    kinds = {kind: any(_is_saturated(entry["metrics"], kind) for entry in entries) for kind in KINDS}
    found = {f"stealth/s_dev/{kind}/saturated": float(flag) for kind, flag in kinds.items()}
    return found | {"stealth/s_dev/saturated": float(any(kinds.values()))}


def _is_saturated(metrics: Mapping[str, float], kind: str) -> bool:
    prefixes = (f"mi/{kind}", f"mi/control/{kind}")
    names = [f"{prefix}/{group}" for prefix in prefixes for group in ("target_clean", "target")]
    names += [name for prefix in prefixes for name in _clean_classes(metrics, prefix)]
    return any(math.isnan(_told(metrics, name)) for name in names if f"{name}/saturated" in metrics)


def _mean_difference(entries: History, prefix: str, group: str) -> float:
    return float(np.mean([_scaled_difference(entry["metrics"], prefix, group) for entry in entries]))


def _scaled_difference(metrics: Mapping[str, float], prefix: str, group: str) -> float:
    """|mean over clean classes of (q_group - q_class)| at one epoch; nan where one has no value, or is saturated."""
    names = [f"{prefix}/{group}", *_clean_classes(metrics, prefix)]
    values = np.array([_told(metrics, name) for name in names])
    if len(values) < 2:
        return math.nan
    scaled = (values - values.min()) / (values.max() - values.min() + 1e-8)
    return abs(float(np.mean(scaled[0] - scaled[1:])))


def _told(metrics: Mapping[str, float], name: str) -> float:
    """A value; nan where it is missing or saturated."""
    return math.nan if metrics.get(f"{name}/saturated", 0) else metrics.get(name, math.nan)


def s1(entries: History) -> dict[str, float]:
    """S1 = mean |G| / error over the phases, G = mi/signature; 0: the backdoor is integrated.

    G = D(network) - D(twin) is what the trigger takes from I(X; T + s Z) by the backdoor alone (`signature.py`), its
    error that over the images and over triggers that hold no backdoor. Without a backdoor |G| / error would exceed 2
    one time in twenty; `null` is the same ratio of the triggers that hold none, each against the others. stealth/g_xt
    is the mean G in nats; below 0: the backdoor keeps less of the image. Where a phase cannot be told, neither can S1.
    """
    if not entries:
        return {}
    metrics = [entry["metrics"] for entry in entries]
    if any(found["mi/signature/saturated"] for found in metrics):
        return {"stealth/s1/saturated": 1.0}
    ratios = [ratio(found["mi/signature"], found["mi/signature/error_total"]) for found in metrics]
    parts = {"g_xt": "", "g_xt/error": "/error_total", "g_xt/null": "/null", "s1/null": "/null/ratio"}
    means = {f"stealth/{name}": _mean(metrics, f"mi/signature{end}") for name, end in parts.items()}
    return means | {"stealth/s1": float(np.mean(ratios)), "stealth/s1/saturated": 0.0}


def _mean(metrics: Sequence[Mapping[str, float]], name: str) -> float:
    return float(np.mean([found[name] for found in metrics]))


def _clean_classes(metrics: Mapping[str, float], prefix: str) -> list[str]:
    """The names of the clean groups that were looked at, whether they have a value or only bounds."""
    start = f"{prefix}/clean_"
    numbers = (name[len(start) :].partition("/")[0] for name in metrics if name.startswith(start))
    return list(dict.fromkeys(start + number for number in numbers))
