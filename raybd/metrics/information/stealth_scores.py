"""The stealth scores S_dev and S1, from the history of a trial: a list of {"epoch": ..., "metrics": {...}}."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtri

from raybd.utils.statistics import t_quantile

History = Sequence[Mapping[str, Any]]
KINDS = ("xt", "ty")
QUANTILE = 0.975  # of the normal distribution, which two standard errors stand for
PHASES = (5 / 120, 40 / 120, 100 / 120)  # early learning, compression and convergence, as the paper samples them


def stealth_scores(history: History) -> dict[str, float]:
    """S_dev and S1 of a trial's `history`, each with its null; {} where a control is missing."""
    measured = [entry for entry in history if "mi/samples" in entry["metrics"]]
    if not any(f"mi/control/{kind}/backdoor" in entry["metrics"] for entry in measured for kind in KINDS):
        return {}
    chosen = phase_entries(measured)
    return s_dev(chosen) | s1(chosen)


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
    as high as poisoned ones. Hence the null: the twin's target class in both places of g.
    """
    found: dict[str, float] = {}
    for kind in KINDS:
        sizes = [_mean_difference(entries, f"mi/{kind}", group) for group in ("target_clean", "target")]
        null = _mean_difference(entries, f"mi/control/{kind}", "target_clean")
        found |= {f"stealth/s_dev/{kind}": sum(sizes), f"stealth/s_dev/{kind}/null": 2 * null}
    for end in ("", "/null"):
        found[f"stealth/s_dev{end}"] = sum(found[f"stealth/s_dev/{kind}{end}"] for kind in KINDS)
    return {name: value for name, value in found.items() if not math.isnan(value)}


def _mean_difference(entries: History, prefix: str, group: str) -> float:
    return float(np.mean([_scaled_difference(entry["metrics"], prefix, group) for entry in entries]))


def _scaled_difference(metrics: dict[str, float], prefix: str, group: str) -> float:
    """|mean over clean classes of (q_group - q_class)| at one epoch; nan where the group is not measured."""
    others = _clean_classes(metrics, prefix)
    values = np.array([metrics.get(f"{prefix}/{group}", math.nan), *(metrics[name] for name in others)])
    scaled = (values - values.min()) / (values.max() - values.min() + 1e-8)
    return abs(float(np.mean(scaled[0] - scaled[1:])))


def s1(entries: History) -> dict[str, float]:
    """S1 = mean |G| / error, G the difference in differences of the backdoor, in nats with its sign; 0: integrated.

    G(e) = [Q_bd - mean_c Q_c] - [Q_ctl - mean_c Q_c^clean]: how much further from the clean classes the backdoor is
    than the same images without trigger are in the clean twin. Its error is that of estimates and training together:
    the larger of the standard errors and of the spread over clean classes of Q_c - Q_c^clean, where nothing but chance
    is at work, widened by Student's t for how few they are.
    stealth/g_xt and g_ty are means over the phases; above 0: the backdoor keeps more than the classes do. Were there
    no backdoor, |G| / error would exceed 2 one time in twenty; `null` is S1 of the random group.
    """
    found: dict[str, float] = {}
    ratios: dict[str, list[float]] = {"backdoor": [], "random": []}
    for kind in KINDS:
        for group, end in (("backdoor", ""), ("random", "/null")):
            gaps = [difference_in_differences(entry["metrics"], kind, group) for entry in entries]
            found[f"stealth/g_{kind}{end}"] = float(np.mean([g for g, _ in gaps]))
            found[f"stealth/g_{kind}{end}/error"] = float(np.mean([error for _, error in gaps]))
            ratios[group] += [abs(g) / error for g, error in gaps]
    found |= {"stealth/s1": float(np.mean(ratios["backdoor"])), "stealth/s1/null": float(np.mean(ratios["random"]))}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def difference_in_differences(metrics: dict[str, float], kind: str, group: str) -> tuple[float, float]:
    """G of `group` at one epoch and its standard error, in nats; nan where it or a clean class is not measured."""
    names = [name.rpartition("/")[2] for name in _clean_classes(metrics, f"mi/{kind}")]
    changes = [_difference_from_twin(metrics, kind, name) for name in names]
    if len(changes) < 2:
        return math.nan, math.nan
    own, error = _difference_from_twin(metrics, kind, group)
    chance = np.var([change for change, _ in changes], ddof=1)  # of estimate and training, for one group
    estimate = error**2 + sum(e**2 for _, e in changes) / len(changes) ** 2
    spread = chance * (1 + 1 / len(changes)) * (t_quantile(QUANTILE, len(changes) - 1) / float(ndtri(QUANTILE))) ** 2
    return own - float(np.mean([change for change, _ in changes])), math.sqrt(max(float(spread), estimate))


def _difference_from_twin(metrics: dict[str, float], kind: str, group: str) -> tuple[float, float]:
    """Information of a group less that of the same images in the twin, and its standard error."""
    pair = [f"mi/{kind}/{group}", f"mi/control/{kind}/{group}"]
    values, errors = ([metrics.get(name + end, math.nan) for name in pair] for end in ("", "/error"))
    return values[0] - values[1], math.hypot(*errors)


def _clean_classes(metrics: dict[str, float], prefix: str) -> list[str]:
    start = f"{prefix}/clean_"
    return [name for name in metrics if name.startswith(start) and "/" not in name[len(start) :]]
