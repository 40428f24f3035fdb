"""Outcome: how a trial ended, as its worker reports it to the driver."""

import json
from dataclasses import asdict, dataclass, field

from raybd.trials.records import FINISHED


@dataclass(frozen=True)
class Outcome:
    """The end of one attempt at a trial, or of its last one."""

    key: str
    label: str
    status: str  # FINISHED or FAILED
    seconds: float = 0.0
    error: str = ""
    permanent: bool = False  # failed, and would fail again
    out_of_memory: bool = False  # failed for want of memory, of a GPU or of its node
    sent: bool = True  # to the tracking store
    died: bool = False  # its process did, or its disk is full: it could write no record
    note: str = ""  # for the summary, for instance that it resumed from a checkpoint
    earlier: str = ""  # the error of the attempt before
    memory: float = 0.0  # MiB that its process had resident at the peak; 0: unknown
    metrics: dict[str, float] = field(default_factory=dict)  # the last ones, where the proposer needs them

    @property
    def finished(self) -> bool:
        """Whether the trial ended well."""
        return self.status == FINISHED

    @property
    def retryable(self) -> bool:
        """Whether another attempt of the same kind may end otherwise."""
        return not (self.finished or self.permanent or self.out_of_memory)

    def to_json(self) -> str:
        """One text, since Tune flattens what is nested."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Outcome":
        """The outcome that `to_json` wrote."""
        return cls(**json.loads(text))
