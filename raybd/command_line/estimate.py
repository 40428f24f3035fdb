"""An estimate of how long a sweep takes: one unit of each kind of work, measured here, times the work."""

from collections.abc import Sequence

from raybd.trials.config import TrialConfig
from raybd.trials.kinds import kind_of
from raybd.types import Data


def estimate_seconds(configs: Sequence[TrialConfig], data: dict[str, Data]) -> float:
    """CPU seconds of one thread for all `configs` together, from a training step or a fit of each on this machine."""
    costs: dict[tuple[object, ...], float] = {}
    total = 0.0
    for config in configs:
        kind, one = kind_of(config), data[config.data]
        key = kind.cost_key(config)
        if key not in costs:
            costs[key] = kind.unit_seconds(config, one)
        total += costs[key] * kind.units(config, one) + kind.overhead
    return total
