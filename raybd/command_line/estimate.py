"""Estimate of a sweep's time: a training step or fit and a measurement, timed on this machine, times their number."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from raybd.trials.config import TrialConfig
from raybd.trials.kinds import kind_of
from raybd.trials.measure_time import LONGEST, MeasureTimes
from raybd.trials.model import NETWORK
from raybd.types import Data

__all__ = ["LONGEST", "Estimate", "estimate"]


@dataclass(frozen=True)
class Estimate:
    """CPU seconds of one thread."""

    seconds: float  # in all
    measures: float  # of these for the measures besides accuracy
    cut_short: bool = False  # whether a measurement took too long to be timed
    untimed: bool = False  # whether trials have measures that are left out

    def times(self, number: int) -> "Estimate":
        """That of so many times the trials."""
        return replace(self, seconds=number * self.seconds, measures=number * self.measures)


def estimate(configs: Sequence[TrialConfig], data: dict[str, Data]) -> Estimate:
    """CPU seconds of one thread for all `configs` together; each kind of work is timed once.

    Measures are timed on one network, and taken to grow with the time of a training step.
    """
    costs: dict[tuple[object, ...], float] = {}
    measured = MeasureTimes(configs, data)
    total = measures = 0.0
    for config in configs:
        kind, one = kind_of(config), data[config.image_set]
        key = kind.cost_key(config)
        if key not in costs:
            costs[key] = kind.unit_seconds(config, one)
        total += costs[key] * kind.units(config, one) + kind.overhead
        measures += measured.seconds(config, costs[key])
    untimed = any(config.metrics and config.model.kind is not NETWORK for config in configs)
    return Estimate(total + measures, measures, measured.cut_short, untimed)
