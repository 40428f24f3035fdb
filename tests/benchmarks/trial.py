"""Where the seconds of one default trial on digits go. There is no other side: nobody else keeps these records."""

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

from raybd.attacks.poisoning import PoisonSpec
from raybd.execution import attempt
from raybd.execution.attempt import run_attempt
from raybd.execution.plan import SweepPlan, plan_sweep
from raybd.execution.setup import TrialSetup
from raybd.tracking.uploads import TrialRun
from raybd.training import loop
from raybd.trials import artifacts, base, measurements
from raybd.trials.config import TrialConfig
from raybd.trials.records import FINISHED, TrialFolder
from raybd.utils import figures
from tests.benchmarks.timing import REPETITIONS, Row, require

PARTS: dict[str, list[tuple[Any, str]]] = {
    "poisoning": [(PoisonSpec, "poison"), (PoisonSpec, "triggered")],
    "verification": [(base, "verify_poisoning")],
    "training": [(loop, "_one_epoch")],
    "measuring": [(measurements, "_metric_context"), (measurements, "measure"), (base, "per_sample")],
    "figures": [(artifacts, "draw_examples"), (figures, "training_curves")],
    "records": [
        *((attempt, name) for name in ("_resume", "save_artifacts", "save_probe_arrays")),
        *((TrialFolder, name) for name in ("append", "write")),
    ],
    "tracking": [(TrialRun, "log"), (TrialRun, "finish")],
}


def trial() -> list[Row]:
    """Clock seconds of a trial with records and a SQLite store, and of its parts; another seed each time."""
    with tempfile.TemporaryDirectory() as folder:
        configs = [TrialConfig(seed=seed) for seed in range(REPETITIONS + 1)]
        sweep = plan_sweep("benchmark", configs, Path(folder) / "results", f"sqlite:///{folder}/mlflow.db")
        first, *timed = [_timed(config, sweep) for config in sweep.todo]
    whole = statistics.median(seconds["all"] for seconds in timed)
    rows = [_row(f"trial digits: {part}", [seconds[part] for seconds in timed], whole) for part in PARTS]
    return [
        _row("trial digits", [seconds["all"] for seconds in timed], whole),
        *rows,
        _row("trial digits: rest", [seconds["rest"] for seconds in timed], whole),
        _row("trial digits, first of a process", [first["all"]], whole),
    ]


def _row(name: str, seconds: list[float], whole: float) -> Row:
    middle = statistics.median(seconds)
    return Row(name, middle, None, len(seconds), f"s, {middle / whole:.1%} of a trial")


def _timed(config: TrialConfig, sweep: SweepPlan) -> Counter[str]:
    setup = TrialSetup(sweep.name, sweep.folder, sweep.store.address)
    with _clocks() as seconds:
        start = time.perf_counter()
        outcome = run_attempt(config, sweep.data[config.data], setup)
        seconds["all"] = time.perf_counter() - start
    require(outcome.status == FINISHED, f"the trial failed: {outcome.error}")
    seconds["rest"] = seconds["all"] - sum(seconds[part] for part in PARTS)
    return seconds


@contextmanager
def _clocks() -> Iterator[Counter[str]]:
    """Seconds by part while the context is open; a part within another one counts as itself alone."""
    seconds: Counter[str] = Counter()
    running: list[str] = []
    with ExitStack() as stack:
        for part, places in PARTS.items():
            for owner, name in places:
                clocked = _clocked(getattr(owner, name), part, seconds, running)
                stack.enter_context(patch.object(owner, name, clocked))
        yield seconds


def _clocked(function: Callable[..., Any], part: str, seconds: Counter[str], running: list[str]) -> Callable[..., Any]:
    @wraps(function)
    def clocked(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        running.append(part)
        try:
            return function(*args, **kwargs)
        finally:
            running.pop()
            spent = time.perf_counter() - start
            seconds[part] += spent
            if running:
                seconds[running[-1]] -= spent

    return clocked
