"""Width of the region in which a learner is accurate and holds no backdoor: decades of C, with a bootstrap."""

import numpy as np
from scipy.special import logit

from raybd.convex.task import Array, Mask
from raybd.errors import InputError
from raybd.seeds import derive

MAX_ACCURACY_LOSS = 0.02
MAX_ATTACK_SUCCESS = 0.1


def defended(
    clean_accuracy: Array,
    attack_success: Array,
    max_accuracy_loss: float = MAX_ACCURACY_LOSS,
    max_attack_success: float = MAX_ATTACK_SUCCESS,
) -> Mask:
    """Which settings (...,) are within `max_accuracy_loss` of the best accuracy among them, at low attack success."""
    floor = clean_accuracy.max() - max_accuracy_loss
    inside: Mask = (clean_accuracy >= floor) & (attack_success <= max_attack_success)
    return inside


def region_width(
    strengths: Array,
    clean_accuracy: Array,
    attack_success: Array,
    samples: int,
    max_accuracy_loss: float = MAX_ACCURACY_LOSS,
    max_attack_success: float = MAX_ATTACK_SUCCESS,
) -> float:
    """Decades of C over which a learner is `defended`, between grid points by interpolation.

    `strengths` (S,) are the grid of C, ascending; both shares (S,) are means over seeds on `samples` test points. The
    logit of each share, cut off half a test point from 0 and 1, is linear in log10 C between neighbours. Raises
    InputError where the grid is no grid or the shares do not fit it.
    """
    if found := _problems(strengths, clean_accuracy, attack_success, samples):
        raise InputError(found)
    floor = clean_accuracy.max() - max_accuracy_loss
    accurate = _logits(clean_accuracy, samples) - _logits(np.array(floor), samples)
    silent = _logits(np.array(max_attack_success), samples) - _logits(attack_success, samples)
    decades = np.diff(np.log10(strengths))
    first, last = _where_positive(accurate), _where_positive(silent)
    share = np.minimum(first[1], last[1]) - np.maximum(first[0], last[0])
    return float(decades @ np.maximum(0, share))


def region_width_band(
    strengths: Array,
    clean_accuracy: Array,
    attack_success: Array,
    samples: int,
    max_accuracy_loss: float = MAX_ACCURACY_LOSS,
    max_attack_success: float = MAX_ATTACK_SUCCESS,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """The 5 % and 95 % points of `region_width` of seed means, with the seeds drawn anew `resamples` times.

    Both shares are (seeds, S). Raises InputError as `region_width` does, and where no resample is asked for.
    """
    if resamples < 1 or clean_accuracy.shape != attack_success.shape or clean_accuracy.ndim != 2:
        raise InputError(
            f"a bootstrap needs resamples and shares (seeds, S), got {resamples} of {clean_accuracy.shape} and "
            f"{attack_success.shape}"
        )
    rng = np.random.default_rng(derive(seed, "region width"))
    drawn = rng.integers(len(clean_accuracy), size=(resamples, len(clean_accuracy)))
    limits = (samples, max_accuracy_loss, max_attack_success)
    widths = [region_width(strengths, clean_accuracy[d].mean(0), attack_success[d].mean(0), *limits) for d in drawn]
    low, high = np.quantile(widths, [0.05, 0.95])
    return float(low), float(high)


def _logits(share: Array, samples: int) -> Array:
    half = 1 / (2 * samples)
    found: Array = logit(share.clip(half, 1 - half))
    return found


def _where_positive(values: Array) -> tuple[Array, Array]:
    """(S - 1,) start and end, in [0, 1] of each interval, of where the line between `values` (S,) is not negative."""
    left, right = values[:-1], values[1:]
    gap = np.where(left == right, 1.0, left - right)
    crossing = (left / gap).clip(0, 1)
    start = np.where(left >= 0, 0.0, np.where(right >= 0, crossing, 1.0))
    end = np.where(right >= 0, 1.0, np.where(left >= 0, crossing, 0.0))
    return start, end


def _problems(strengths: Array, clean_accuracy: Array, attack_success: Array, samples: int) -> list[str]:
    found = []
    if strengths.ndim != 1 or not (strengths > 0).all() or not (np.diff(strengths) > 0).all():
        found.append(f"the grid of C must ascend from above 0, got {strengths.tolist()}")
    if not clean_accuracy.shape == attack_success.shape == strengths.shape:
        found.append(
            f"shares of {clean_accuracy.shape} and {attack_success.shape} are not one for each C {strengths.shape}"
        )
    if samples < 1:
        found.append(f"{samples} test points (allowed: 1 or more)")
    return found
