"""The memory of a process that runs trials: what one took at its peak, and what is given back after it."""

import contextlib
import ctypes
import gc
import sys
from pathlib import Path

from raybd.execution.worker_environment import KEPT

PROCESS = Path("/proc/self")
RESET_PEAK = "5"  # see proc_pid_clear_refs(5)
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # see mallopt(3)


def keep_between_steps() -> None:
    """Let this process keep the memory of one step for the next, as `WORKER_ENVIRONMENT` does for workers."""
    with contextlib.suppress(OSError, AttributeError):  # a C library other than glibc has no such function
        glibc = ctypes.CDLL(None)
        for option in (MMAP_THRESHOLD, TRIM_THRESHOLD):
            glibc.mallopt(option, KEPT)


def forget_peak() -> None:
    """Measure peaks from now on. Where the kernel forbids it, they stay those of the whole process so far."""
    with contextlib.suppress(OSError):
        (PROCESS / "clear_refs").write_text(RESET_PEAK)


def peak() -> float:
    """The most memory in MiB that this process had resident since `forget_peak`, shared pages too; 0: unknown."""
    with contextlib.suppress(OSError):
        for line in (PROCESS / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


def give_back() -> None:
    """Return to the system what the last trial no longer needs: freed memory in pieces is otherwise kept, and grows."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # a C library other than glibc has no such function
        ctypes.CDLL(None).malloc_trim(0)


def freeze() -> None:
    """Let the garbage collector pass over all that lives now: looking through PyTorch each time takes half a second.

    For workers alone: in a user's own process it would keep the user's objects alive.
    """
    gc.freeze()


def ran_out(error: Exception | None) -> bool:
    """Whether `error` says that memory ran out, on a GPU or here."""
    import torch  # here: a driver that only plans needs none

    cpu = "can't allocate memory"  # of PyTorch's allocator, a RuntimeError like any other
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or cpu in str(error or "")


def without_gpu_compiler() -> None:
    """Spare a process that trains on a CPU 60 MiB: PyTorch imports Triton with its first optimiser, for nothing."""
    sys.modules.setdefault("triton", None)  # type: ignore[arg-type]
