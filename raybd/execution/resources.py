"""What trials take of a machine."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """What one trial holds, and how many may run at once. Each of several workers has `cpus`, and one GPU or none."""

    cpus: float = 1.0
    gpus: float | None = None  # a part of one, or several; None: a whole one where there are any, else none
    at_once: int | None = None  # None: as many as fit
    workers: int = 1  # of a trial, at most: processes that train its network together

    @property
    def of_worker(self) -> dict[str, float]:
        """What Ray reserves for each worker of a trial with several."""
        return {"CPU": self.cpus} | ({"GPU": 1.0} if self.gpus else {})

    def problems(self) -> list[str]:
        """What no trial can hold."""
        gpus = self.gpus or 0.0
        if gpus <= 1 or gpus == int(gpus):
            return []
        return [f"a trial cannot hold {gpus:g} GPUs: a part of one (0.25), or a whole number"]
