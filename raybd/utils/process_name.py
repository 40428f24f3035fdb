"""ProcessName: which process of which machine, so that another one can tell whether it still lives."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class ProcessName:
    """A process: by its number, which is given anew, and its start; both hold in one place alone."""

    place: str  # the boot of a machine, and the space of process numbers in it (a container has its own)
    pid: int
    born: str  # start, in ticks since the boot

    @classmethod
    def own(cls) -> "ProcessName | None":
        """This process; None where that cannot be told (elsewhere than on Linux)."""
        place, born = _place(), _born(os.getpid())
        return cls(place, os.getpid(), born) if place and born else None

    @classmethod
    def parse(cls, text: str) -> "ProcessName | None":
        """The process that `str` wrote; None for any other text."""
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError):
            return None

    def __str__(self) -> str:
        return json.dumps(asdict(self))

    @property
    def dead(self) -> bool:
        """Whether it has ended, as far as can be told here: False for a process of another place."""
        return self.place == _place() and _born(self.pid) != self.born


def _place() -> str:
    try:
        return f"{(PROC / 'sys/kernel/random/boot_id').read_text().strip()} {(PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return ""


def _born(pid: int) -> str:
    """The start of a process, field 22 of its `stat`; "" where there is none, or it only waits to be reaped."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
