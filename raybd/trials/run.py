"""One trial: config in, metrics out. No Ray, no MLflow."""

import time
from collections.abc import Callable
from pathlib import Path

from raybd.metrics.base import History
from raybd.training import Checkpoint
from raybd.trials.base import TrialResult, TrialSession
from raybd.trials.config import TrialConfig
from raybd.trials.kinds import kind_of
from raybd.trials.validate import check_trial, without_validation
from raybd.types import Data, Report


def run_trial(
    config: TrialConfig,
    data: Data,
    report: Callable[[Report], None] = lambda _: None,
    checkpoint: Checkpoint | None = None,
    shared: Path | None = None,
    heartbeat: Callable[[], None] = lambda: None,
    earlier: History = (),
    workers: int = 1,
) -> TrialResult:
    """Check `config`, poison, train under the defence, measure at every probe; on the device where `data` lies.

    `shared` is a folder for what other trials can use: clean twins, encoders of defences; `heartbeat` is called while
    such work goes on; `earlier` is the history of the epochs before `checkpoint`; `workers` train the network together.

    Raises:
        InputError: the config does not fit the data.
        PoisoningError: the poisoned set is not what was asked for.
        DivergedError: training diverged.
    """
    check_trial(config, data, workers)
    return run_checked(config, data, TrialSession(report, checkpoint, shared, heartbeat, earlier, workers))


def run_checked(config: TrialConfig, data: Data, session: TrialSession) -> TrialResult:
    """`run_trial` for a config that has been checked."""
    start = time.perf_counter()
    return kind_of(config).run(config, without_validation(config, data), session, start)
