"""--stop-on-warning: the early warning that ends trials whose verdict it is sure of, and why it cannot."""

from collections.abc import Sequence

from raybd.command_line.options import SweepOptions
from raybd.early_warning import WITH_TRIGGER, WarningModel, due_epoch, misfit, read_warning
from raybd.errors import InputError
from raybd.metrics import METRICS
from raybd.plugins.own import name_of
from raybd.training import probe_schedule
from raybd.trials.config import TrialConfig

METRIC_OF = {"mi": "mutual_information"}  # metrics by the first word of their measures' names, where it is another


def warning_of(options: SweepOptions, configs: Sequence[TrialConfig]) -> tuple[WarningModel, ...]:
    """The stages of the early warning that is to stop trials of a sweep; none where none is.

    Raises:
        InputError: its file holds none, no trial could be stopped since none measures what it needs early enough, or it
            was fitted to trainings of other numbers of epochs.
    """
    if not options.execution.stop_on_warning:
        return ()
    stages = read_warning(options.execution.warning or WITH_TRIGGER)
    problems = [*_unmeasured(stages, configs), *_of_another_kind(stages, configs)]
    if any(config.train.workers > 1 for config in configs):
        problems.append("--stop-on-warning does not go with several workers a trial, which end together")
    if problems:
        raise InputError(problems)
    return stages


def _unmeasured(stages: Sequence[WarningModel], configs: Sequence[TrialConfig]) -> list[str]:
    """Why no trial is measured in time."""
    needed, share = _metrics(stages), max(stage.share for stage in stages)
    problems = []
    if not any(needed <= {name_of(METRICS, metric) for metric in config.metrics} for config in configs):
        names = " ".join(sorted(needed))
        problems.append(f"--stop-on-warning needs --metrics {names}, from which its early warning is made")
    if not any(_probed(config, share) for config in configs):
        problems.append(f"--stop-on-warning needs a probe in the first {share:.0%} of the epochs: see --probes")
    return problems


def _of_another_kind(stages: Sequence[WarningModel], configs: Sequence[TrialConfig]) -> list[str]:
    """Why the warning knows nothing of these trainings."""
    others = {epochs: said for epochs in sorted({c.train.epochs for c in configs}) if (said := misfit(stages, epochs))}
    if not others:
        return []
    return [
        f"--stop-on-warning: its early warning was {next(iter(others.values()))} and is wrong where there are "
        f"{', '.join(map(str, others))}: fit one to a sweep of this kind (raybd signal NAME --fit FILE, then "
        "--warning FILE)"
    ]


def _metrics(stages: Sequence[WarningModel]) -> set[str]:
    """The metrics that take the measures of a warning and have to be asked for."""
    words = {measure.partition("/")[0] for stage in stages for measure in stage.measures}
    return {METRIC_OF.get(word, word) for word in words} & (METRICS.keys() - {"accuracy"})  # which every trial has


def _probed(config: TrialConfig, share: float) -> bool:
    """Whether the trial is measured in the first `share` of its epochs."""
    epochs = config.train.epochs
    return any(epoch <= due_epoch(share, epochs) for epoch in config.probes or probe_schedule(epochs))
