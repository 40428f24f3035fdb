"""One trial: config in, metrics out. No Ray, no MLflow."""

import time
from collections.abc import Callable
from pathlib import Path

from raybd.errors import InputError
from raybd.metrics.base import History
from raybd.training import Checkpoint
from raybd.training.determinism import deterministic_algorithms
from raybd.training.processor import warn_of_slow_bf16
from raybd.trials.base import TrialResult, TrialSession
from raybd.trials.config import TrialConfig
from raybd.trials.contents import check_files, content_problems
from raybd.trials.kinds import kind_of
from raybd.trials.validate import check_trial, with_class_numbers, without_validation
from raybd.types import Data, Report


def run_trial(
    config: TrialConfig,
    data: Data,
    report: Callable[[Report], None] = lambda _: None,
    checkpoint: Checkpoint | None = None,
    shared: Path | None = None,
    heartbeat: Callable[[], None] = lambda: None,
    earlier: History = (),
) -> TrialResult:
    """Check `config`, poison, train under the defence, measure at every probe; on the device where `data` lies.

    `shared` is a folder that trials share: clean twins, encoders of defences; `heartbeat` is called while
    such work goes on; `earlier` is the history of the epochs before `checkpoint`. A trial by several workers
    is run by rank 0 of their process group, while the others call `follow_trial`.

    Raises:
        InputError: the config does not fit the data.
        PoisoningError: the poisoned set is not what was asked for.
        DivergedError: training diverged.
    """
    config = with_class_numbers(config, data)
    check_trial(config, data)
    warn_of_slow_bf16([config.train], data.train.x.device.type)
    return run_checked(config, data, TrialSession(report, checkpoint, shared, heartbeat, earlier))


def run_checked(config: TrialConfig, data: Data, session: TrialSession) -> TrialResult:
    """`run_trial` for a config that has been checked.

    Raises:
        InputError: a file that it draws on is not, or does not stay, what it was when the trial was planned.
    """
    start = time.perf_counter()
    if found := content_problems(config, data):
        raise InputError(found)
    with deterministic_algorithms(config.train.deterministic):
        result = kind_of(config).run(config, without_validation(config, data), session, start)
    check_files(config)
    return result


def follow_trial(config: TrialConfig, data: Data, shared: Path | None) -> None:
    """What every rank after the first does of a trial: poison and train in step with it, measure and keep nothing.

    `shared` must be what rank 0's `run_trial` is given.

    Raises:
        DivergedError: training diverged, on rank 0 too.
    """
    with deterministic_algorithms(config.train.deterministic):
        kind_of(config).follow(config, without_validation(config, data), TrialSession(shared=shared))
