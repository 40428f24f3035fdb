"""What a sweep costs besides its trials: on Ray, in MLflow's store, and in a dry run. Minutes of all cores.

By the clock: it wants a machine that does nothing else. The last two numbers are of one core each.
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mlflow.entities import Metric, Param, RunTag

from raybd.execution.plan import plan_sweep
from raybd.execution.progress import Progress
from raybd.execution.resources import Resources
from raybd.execution.result import SweepResult
from raybd.tracking.store import Store
from raybd.tracking.uploads import TrialRun
from raybd.training import TrainConfig
from raybd.trials.config import TrialConfig
from tests.benchmarks.stored_map import copy_run
from tests.benchmarks.timing import Row, require
from tests.sweeping import run_inline, run_on_ray

TRIALS, EPOCHS = 200, 50  # trials of about two seconds on a quiet core
STORED = 10_000  # runs that are in the store already
LOGGED = 10  # trials that write to it
CONFIGS = 10_000
ROOT = Path(__file__).parents[2]


def sweep() -> list[Row]:
    """Share of the core seconds inside trials and memory of the driver; MLflow's share; seconds of a dry run."""
    return [*_on_ray(TRIALS), *_stored(STORED), _dry_run()]


def _on_ray(trials: int) -> list[Row]:
    """A sweep of digits on a local Ray with every core, as `sweeps/ib.py` would start it."""
    configs = [TrialConfig(train=TrainConfig(epochs=EPOCHS), seed=seed) for seed in range(trials)]
    with tempfile.TemporaryDirectory() as folder, _memory() as resident:
        todo = plan_sweep("benchmark", configs, Path(folder) / "results", f"sqlite:///{folder}/mlflow.db")
        result = run_on_ray(todo, Resources(), "local")
    require(len(result.outcomes) == trials and not result.failures, f"{trials} trials: {result.text}")
    each = sum(outcome.seconds for outcome in result.outcomes) / trials
    peaks = sorted(outcome.memory for outcome in result.outcomes)
    name = f"sweep of {trials} trials of {each:.2g} s on {result.cores} cores"
    return [
        Row(f"{name}: inside trials", 100 * result.busy, None, 1, "% of core seconds"),
        Row(f"{name}: driver after a quarter", _at(resident, 0.25), None, 1, "MiB"),
        Row(f"{name}: driver at the end", _at(resident, 1.0), None, 1, "MiB"),
        Row("peak memory of a trial, median", peaks[trials // 2], None, trials, "MiB"),
        Row("peak memory of a trial, highest", peaks[-1], None, trials, "MiB"),
    ]


@contextmanager
def _memory() -> Iterator[list[tuple[int, float]]]:
    """(trials that have ended, MiB of this process) whenever one does, while the context is open."""
    seen: list[tuple[int, float]] = []
    ended = Progress.ended

    @wraps(ended)
    def noted(self: Progress, key: str) -> None:
        ended(self, key)
        seen.append((self.counts.ended, _resident()))

    with patch.object(Progress, "ended", noted):
        yield seen


def _at(seen: list[tuple[int, float]], share: float) -> float:
    wanted = share * max(count for count, _ in seen)
    return next(mib for count, mib in seen if count >= wanted)


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def _stored(runs: int) -> list[Row]:
    """Share of trials' seconds that MLflow takes, in an empty store and in one with so many runs."""
    return [_share(0), _share(runs)]


def _share(runs: int) -> Row:
    configs = [TrialConfig(train=TrainConfig(epochs=EPOCHS), seed=seed) for seed in range(LOGGED)]
    spent: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        run_inline(
            plan_sweep("first", configs[:1], Path(folder) / "results", f"sqlite:///{folder}/first.db")
        )  # imports
        uri = f"sqlite:///{folder}/mlflow.db"
        fill(Store.open("benchmark", uri), runs)
        todo = plan_sweep("benchmark", configs, Path(folder) / "results", uri)
        with _clocked(spent):
            result: SweepResult = run_inline(todo)
    require(not result.failures, result.text)
    share = 100 * sum(spent) / sum(outcome.seconds for outcome in result.outcomes)
    return Row(f"MLflow with {runs:,} runs in the store", share, None, LOGGED, "% of a trial's seconds")


@contextmanager
def _clocked(spent: list[float]) -> Iterator[None]:
    """Seconds of every call to the store while the context is open."""

    def clocked(method: Any) -> Any:
        @wraps(method)
        def call(*args: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*args)
            finally:
                spent.append(time.perf_counter() - start)

        return call

    with (
        patch.object(TrialRun, "log", clocked(TrialRun.log)),
        patch.object(TrialRun, "finish", clocked(TrialRun.finish)),
    ):
        yield


def fill(store: Store, runs: int) -> None:
    """Put so many finished trials into `store`: one through MLflow, the others as copies of its rows."""
    if not runs:
        return
    made = store.client.create_run(store.address.experiment_id, tags={"raybd.kind": "trial"}).info.run_id
    now = int(time.time() * 1000)
    metrics = [Metric(f"metric/{i}", 0.5, now, epoch) for i in range(20) for epoch in range(5)]
    params = [Param(f"param.{i}", "value") for i in range(40)]
    store.client.log_batch(made, metrics, params, [RunTag("raybd.key", "0" * 16)])
    store.client.set_terminated(made)
    copy_run(Path(store.address.uri.removeprefix("sqlite:///")), made, runs - 1)


def _dry_run() -> Row:
    """A process from its start to its end, imports and all."""
    seeds = CONFIGS // 36  # the default question has 36 trials a seed, those of VIBE among them
    trials = seeds * 36
    asked = [sys.executable, "sweeps/ib.py", "--dry-run", "--all", "--metrics", "stealth", "--seeds", str(seeds)]
    start = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    require(f"{trials} trials, about" in said, said[-300:])
    taken = end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime
    return Row(f"dry run of {trials:,} trials", taken, None, 1, "CPU-s")
