"""The time of a trial's measures: each is run once, on an untrained network."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from threadpoolctl import threadpool_limits

from raybd.metrics.base import Metric
from raybd.training import probe_schedule
from raybd.trials.config import TrialConfig
from raybd.trials.measurements import untrained_context
from raybd.trials.model import NETWORK
from raybd.types import Data, MetricContext

LONGEST = 10.0  # seconds after which a measurement is cut short


class _TooLongError(Exception):
    """A measurement takes longer than LONGEST."""


class MeasureTimes:
    """Seconds of the measures of trials in one thread; each is timed once on a data set and a kind of network."""

    def __init__(self, configs: Sequence[TrialConfig], data: Mapping[str, Data]) -> None:
        """Of `configs`; those with the most poison are timed, since nothing is measured of none."""
        self._data = data
        self._samples = {_key(config): config for config in sorted(configs, key=lambda config: config.poison_rate)}
        self._times: dict[object, tuple[list[float], float]] = {}
        self.cut_short = False  # whether a measurement was

    def seconds(self, config: TrialConfig, unit: float) -> float:
        """Those of a trial that trains a network, of which a unit of work takes `unit` seconds; else 0: not known."""
        if not (config.metrics and config.model.kind is NETWORK):
            return 0.0
        key = _key(config)
        if key not in self._times:
            self._times[key] = self._timed(self._samples[key]), unit
        times, reference = self._times[key]
        epochs = config.train.epochs
        probes = config.probes or probe_schedule(epochs)
        counts = [metric.measurements(probes, epochs) for metric in config.metrics]
        return sum(each * count for each, count in zip(times, counts, strict=True)) * unit / reference

    def _timed(self, config: TrialConfig) -> list[float]:
        """Seconds of one measurement by each metric of `config`."""
        context = untrained_context(config, self._data[config.image_set])
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with threadpool_limits(1):  # NumPy's and SciPy's, as in a trial: several would wait for each other
                return [self._time(metric, context) for metric in config.metrics]
        finally:
            torch.set_num_threads(before)

    def _time(self, metric: Metric, context: MetricContext) -> float:
        start = time.thread_time()

        def heartbeat() -> None:
            if time.thread_time() - start > LONGEST:
                raise _TooLongError

        try:
            metric.measure(replace(context, heartbeat=heartbeat))
        except _TooLongError:
            self.cut_short = True
        return time.thread_time() - start


def _key(config: TrialConfig) -> object:
    return config.image_set, config.metrics, config.model.name
