"""Outcome: how a trial ended, as its worker reports it to the driver."""

import json
from dataclasses import asdict, dataclass, field

from raybd.trials.records import FINISHED, STOPPED


@dataclass(frozen=True)
class Outcome:
    """The result of one attempt at a trial."""

    key: str
    label: str
    status: str  # FINISHED, FAILED or STOPPED
    seconds: float = 0.0
    error: str = ""
    permanent: bool = False  # failed, and would fail again: not retryable
    out_of_memory: bool = False  # memory of its GPU or node was exhausted
    stopped: bool = False  # asked to end, or its process was: no failure, and the trial is to go on
    uploaded: bool = True  # whether the tracking store has it
    died: bool = False  # its process died, or its disk is full: there is no record
    note: str = ""  # for the summary, for instance that it resumed from a checkpoint
    earlier: str = ""  # the error of the attempt before
    memory: float = 0.0  # peak resident memory of its process in MiB; 0: unknown
    metrics: dict[str, float] = field(default_factory=dict)  # the final ones, where the proposer needs them

    @property
    def finished(self) -> bool:
        """Whether the trial finished, without an error."""
        return self.status == FINISHED

    @property
    def warned(self) -> bool:
        """Whether its early warning stopped it: neither finished nor failed."""
        return self.status == STOPPED

    @property
    def retryable(self) -> bool:
        """Whether another attempt may succeed."""
        return not (self.finished or self.permanent or self.out_of_memory or self.stopped or self.warned)

    def to_json(self) -> str:
        """As JSON, since Tune flattens nested results."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Outcome":
        """The outcome that `to_json` wrote."""
        return cls(**json.loads(text))
