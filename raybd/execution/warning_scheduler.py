"""WarningScheduler: a scheduler of Ray Tune that ends trials of one's own on their early warning.

raybd's own trials end themselves (`--stop-on-warning`): they have a record to close, and one that Tune ends cannot.
"""

from pathlib import Path
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from raybd.early_warning import WITH_TRIGGER, misfit, read_warning, stage_due
from raybd.errors import InputError


class WarningScheduler(FIFOScheduler):
    """Trials in order; each is stopped once a stage of its early warning is due and sure, of a backdoor or of none.

    The measures are keys of what a trial reports, with `time_attr` for the epoch; `probabilities` has what the warning
    said last, by trial. A stage is made from the report at which it is due, and nothing else.
    """

    def __init__(self, epochs: int, warning: str | Path = WITH_TRIGGER, time_attr: str = "training_iteration") -> None:
        """`epochs`: how many a whole trial has; `warning`: a file of `raybd signal NAME --fit FILE`.

        Raises:
            InputError: the file holds no early warning, or one fitted to trainings of other numbers of epochs.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.epochs, self.warning, self.time_attr = epochs, read_warning(warning), time_attr
        if other := misfit(self.warning, epochs):
            raise InputError(f"the early warning was {other}, not {epochs}")
        self.probabilities: dict[str, float] = {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """STOP where the warning is due and sure, else CONTINUE."""
        stage = stage_due(self.warning, int(result[self.time_attr]), self.epochs)
        if stage is None:
            return TrialScheduler.CONTINUE
        probability = stage.probability(result)
        self.probabilities[trial.trial_id] = probability
        return TrialScheduler.STOP if stage.is_sure(probability) else TrialScheduler.CONTINUE
