"""TrialSetup: settings of a sweep that each of its trials gets."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raybd.early_warning import WarningModel
from raybd.execution.resources import KeepModels
from raybd.tracking.store import Address
from raybd.trials.config import TrialConfig
from raybd.trials.records import SweepFolder


@dataclass(frozen=True)
class TrialSetup:
    """Settings shared by all trials of a sweep: where records go, device and threads, watchdog and checkpoints."""

    name: str
    folder: SweepFolder
    address: Address
    threads: int = 1  # of a trial on a CPU
    device: str = "cpu"
    stall_seconds: float = 3600.0  # a trial without a heartbeat for so long is killed
    checkpoint_seconds: float = 60.0  # between two checkpoints
    return_metrics: bool = False  # in the outcome
    share: float = 1.0  # of its device's memory that a trial may fill: its GPU's, or that of its node
    tight: bool = False  # after memory ran out: batches of measures are smaller, images streamed
    image_bytes: float | None = None  # of images in memory, above which they are streamed; None: half of its share
    figures: str = "all"  # which trials draw figures: all, first_seed or none
    figure_formats: tuple[str, ...] = ()  # in which they are saved beside PNG: svg, pdf
    keep_models: KeepModels = "none"  # which networks of a trial are kept
    function: Callable[..., Any] | None = None  # of the user, that trains: see `raybd.scripts`
    warning: tuple[WarningModel, ...] = ()  # its stages, which end trials early whose verdict they are sure of
    own_names: tuple[tuple[tuple[str, str], str], ...] = ()  # of methods of installed packages: `names_in_use`
    start: str = ""  # name of the driver's start, by which it asks its trials to end

    def formats(self, config: TrialConfig) -> tuple[str, ...]:
        """Formats of the trial's figures, none where it draws none: seeds 1, 2, ... of a cell look like seed 0 and cost
        as much."""
        drawn = self.figures == "all" or (self.figures == "first_seed" and config.seed == 0)
        return ("png", *self.figure_formats) if drawn else ()
