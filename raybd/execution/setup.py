"""TrialSetup: what all trials of a sweep share."""

from dataclasses import dataclass

from raybd.tracking.store import Address
from raybd.trials.records import SweepFolder


@dataclass(frozen=True)
class TrialSetup:
    """What all trials of a sweep share: where records go, and what each runs on."""

    name: str
    folder: SweepFolder
    address: Address
    threads: int = 1  # of a trial on a CPU
    device: str = "cpu"
    stall_seconds: float = 3600.0  # a trial without a heartbeat for so long is ended
    checkpoint_seconds: float = 60.0
    return_metrics: bool = False  # with the outcome
