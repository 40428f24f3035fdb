"""What trials take of a machine."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """What one trial holds, and how many may run at once."""

    cpus: float = 1.0
    gpus: float | None = None  # a part of one, or several; None: a whole one where there are any, else none
    at_once: int | None = None  # None: as many as fit

    @property
    def workers(self) -> int:
        """How many train a trial's network together: one a GPU."""
        return max(1, int(self.gpus or 0))

    def problems(self) -> list[str]:
        """What no trial can hold."""
        gpus = self.gpus or 0.0
        if gpus <= 1 or gpus == int(gpus):
            return []
        return [f"a trial cannot hold {gpus:g} GPUs: a part of one (0.25), or a whole number"]
