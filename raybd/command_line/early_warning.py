"""--stop-on-warning: the early warning that ends trials whose verdict it is sure of, and why it cannot."""

from collections.abc import Sequence

from raybd.command_line.options import SweepOptions
from raybd.early_warning import WITH_TRIGGER, WarningModel, due_epoch
from raybd.errors import InputError
from raybd.metrics import METRICS
from raybd.plugins.own import name_of
from raybd.training import probe_schedule
from raybd.trials.config import TrialConfig


def warning_of(options: SweepOptions, configs: Sequence[TrialConfig]) -> WarningModel | None:
    """The early warning that is to stop trials of a sweep; None where none is.

    Raises:
        InputError: its file holds none, or no trial could be stopped: none measures what it needs early enough.
    """
    if not options.execution.stop_on_warning:
        return None
    warning = WarningModel.read(options.execution.warning or WITH_TRIGGER)
    needed = sorted({measure.partition("/")[0] for measure in warning.measures} & METRICS.keys())
    problems = []
    if not any(set(needed) <= {name_of(METRICS, metric) for metric in config.metrics} for config in configs):
        problems.append(f"--stop-on-warning needs --metrics {' '.join(needed)}, from which its early warning is made")
    if not any(_probed(config, warning) for config in configs):
        problems.append(f"--stop-on-warning needs a probe in the first {warning.share:.0%} of the epochs: see --probes")
    if any(config.train.workers > 1 for config in configs):
        problems.append("--stop-on-warning does not go with several workers a trial, which end together")
    if problems:
        raise InputError(problems)
    return warning


def _probed(config: TrialConfig, warning: WarningModel) -> bool:
    """Whether the trial is measured before its early warning is due."""
    epochs = config.train.epochs
    due = due_epoch(warning.share, epochs)
    return any(epoch <= due for epoch in config.probes or probe_schedule(epochs))
