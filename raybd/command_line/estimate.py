"""Estimate of a sweep's time: seconds of one training step or fit, measured on this machine, times their number."""

from collections.abc import Sequence

from raybd.trials.config import TrialConfig
from raybd.trials.kinds import kind_of
from raybd.types import Data


def estimate_seconds(configs: Sequence[TrialConfig], data: dict[str, Data]) -> float:
    """CPU seconds of one thread for all `configs` together; each kind of work is timed once."""
    costs: dict[tuple[object, ...], float] = {}
    total = 0.0
    for config in configs:
        kind, one = kind_of(config), data[config.image_set]
        key = kind.cost_key(config)
        if key not in costs:
            costs[key] = kind.unit_seconds(config, one)
        total += costs[key] * kind.units(config, one) + kind.overhead
    return total
