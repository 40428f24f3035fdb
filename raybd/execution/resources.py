"""Resources: CPUs, GPUs and workers of a trial."""

from dataclasses import dataclass
from typing import Literal

KeepModels = Literal["none", "last", "all"]  # networks of a trial that are kept


@dataclass(frozen=True)
class Resources:
    """Resources of a trial and how many trials run at once. Each of several workers has `cpus` and one GPU or none."""

    cpus: float = 1.0
    gpus: float | None = None  # a fraction, or a whole number; None: 1 if the cluster has GPUs, else 0
    at_once: int | None = None  # most trials in parallel; None: as many as fit
    workers: int = 1  # processes that train one network by data parallelism, at most

    @property
    def of_worker(self) -> dict[str, float]:
        """Ray's resources of each worker of a trial with several."""
        return {"CPU": self.cpus} | ({"GPU": 1.0} if self.gpus else {})

    def problems(self) -> list[str]:
        """Why no trial can have these resources; empty if one can."""
        gpus = self.gpus or 0.0
        if gpus <= 1 or gpus == int(gpus):
            return []
        return [f"a trial cannot have {gpus:g} GPUs (allowed: a fraction below 1, as 0.25, or a whole number)"]
