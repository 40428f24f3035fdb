"""Memory of a process that runs trials: peak measurement, allocator settings, release after a trial."""

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from raybd.execution.worker_environment import KEPT

PROCESS = Path("/proc/self")
RESET_PEAK = "5"  # see proc_pid_clear_refs(5)
# of PyTorch's allocator on a CPU, of CUDA outside of the allocator, of cuDNN and cuBLAS: a RuntimeError like any other
OUT_OF_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # see mallopt(3)


def retain_freed_memory() -> None:
    """Make glibc keep freed memory for the next training step, as `WORKER_ENVIRONMENT` does for workers."""
    with contextlib.suppress(OSError, AttributeError):  # a C library other than glibc has no such function
        glibc = ctypes.CDLL(None)
        for option in (MMAP_THRESHOLD, TRIM_THRESHOLD):
            glibc.mallopt(option, KEPT)


def reset_peak() -> None:
    """Reset the peak that `peak` returns; without effect where the kernel forbids it."""
    with contextlib.suppress(OSError):
        (PROCESS / "clear_refs").write_text(RESET_PEAK)


def peak() -> float:
    """The most memory in MiB that this process had resident since `reset_peak`, shared pages too; 0: unknown."""
    with contextlib.suppress(OSError):
        for line in (PROCESS / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


def release_memory() -> None:
    """Collect garbage and return free memory to the system: glibc would keep fragments, and grow with every trial."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # a C library other than glibc has no such function
        ctypes.CDLL(None).malloc_trim(0)


def freeze() -> None:
    """Let the garbage collector pass over all that lives now: looking through PyTorch each time takes half a second.

    For workers alone, which end with their sweep.
    """
    gc.freeze()


@contextlib.contextmanager
def temporary_freeze() -> Iterator[Callable[[], None]]:
    """Yield `freeze` for a user's own process: at the end the collector sees all objects again, as it did before."""
    frozen_before = gc.get_freeze_count()
    try:
        yield (lambda: None) if frozen_before else freeze  # what a user froze must stay so
    finally:
        if not frozen_before:
            gc.unfreeze()


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether `error`, or what it was raised from, reports exhausted memory, of the GPU or of the host."""
    import torch  # here: a driver that only plans needs none

    while error is not None:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False


def hide_gpus() -> None:
    """Let this process, of a trial on the CPU, neither see GPUs nor ask their driver: a context takes their memory."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def skip_triton_import() -> None:
    """Prevent the import of Triton (60 MiB), which PyTorch's first optimiser imports on a CPU too, without use."""
    sys.modules.setdefault("triton", None)  # type: ignore[arg-type]


def stay_on_cpu() -> None:
    """Prepare this process for trials on the CPU alone."""
    skip_triton_import()
    hide_gpus()
