"""What a trial costs the driver: CPU of its whole process, user and system, over trials that do nothing on a real Tune.

python -m tests.benchmarks --only driver
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from raybd.data import load
from raybd.execution.on_ray import RayExecutor
from raybd.execution.outcome import Outcome
from raybd.execution.progress import Progress
from raybd.execution.proposers import ListProposer
from raybd.execution.queue import TrialQueue
from raybd.execution.ray_cluster import connect
from raybd.execution.resources import Resources
from raybd.execution.setup import TrialSetup
from raybd.tracking.store import Address
from raybd.trials.config import TrialConfig
from raybd.trials.records import FINISHED, SweepFolder
from raybd.types import Data
from tests.benchmarks.timing import Row, require

COUNTS = (500, 2_000, 10_000)


def no_op(config: TrialConfig, data: Data, setup: TrialSetup, heartbeat: Callable[[], None]) -> Outcome:
    """A trial that ends at once."""
    return Outcome(config.key, config.label, FINISHED)


def driver() -> list[Row]:
    """Milliseconds of driver CPU and of the clock a trial, at each number of trials."""
    cores = connect("local", 0)
    return [row for count in COUNTS for row in _measure(count, cores)]


def _measure(count: int, cores: int) -> list[Row]:
    configs = [TrialConfig(seed=seed) for seed in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        setup = TrialSetup("benchmark", SweepFolder.of(Path(folder), "benchmark"), Address("", "", "", ""))
        resources = Resources(gpus=0.0, at_once=cores)
        executor = RayExecutor(setup, {"digits": load("digits")}, resources, cores, no_op)
        queue = TrialQueue(ListProposer(configs))
        start, cpu = time.perf_counter(), time.process_time()
        ending = executor.run(queue, Progress(queue))
        spent, seconds = time.process_time() - cpu, time.perf_counter() - start
    require(not ending.errors and len(queue.outcomes) == count, f"{len(queue.outcomes)} of {count}: {ending}")
    name = f"{count:,} trials that do nothing on Ray Tune"
    return [
        Row(f"{name}: CPU of the driver, each", 1000 * spent / count, None, 1, "ms"),
        Row(f"{name}: by the clock, each", 1000 * seconds / count, None, 1, "ms"),
    ]
