"""Memory that this machine has free, and sizes in words."""

import contextlib
import os
from pathlib import Path

LARGEST = 2**45  # bytes: no machine has more
LARGEST_GPU = 2**38
MEMINFO = Path("/proc/meminfo")
CONTROL_GROUP = Path("/sys/fs/cgroup/memory.max")  # of a container: its limit in bytes, or "max"


def available_bytes() -> int:
    """Bytes that a program can have without swapping: those available on Linux, elsewhere all that is built in."""
    found = total_bytes()
    with contextlib.suppress(OSError, ValueError):
        lines = MEMINFO.read_text().splitlines()
        found = min([found, *(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))])
    return min(found, total_bytes() - _used_of_container())


def total_bytes() -> int:
    """Bytes of memory that this machine, or container, has."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):
        found = min(found, int(CONTROL_GROUP.read_text()))
    return found


def _used_of_container() -> int:
    """Bytes that the container holds already, without the caches of files that it could give back; 0 outside one."""
    with contextlib.suppress(OSError, ValueError):
        int(CONTROL_GROUP.read_text())
        held = int(CONTROL_GROUP.with_name("memory.current").read_text())
        lines = CONTROL_GROUP.with_name("memory.stat").read_text().splitlines()
        return held - sum(int(line.split()[1]) for line in lines if line.startswith(("inactive_file ", "active_file ")))
    return 0


def format_bytes(count: float) -> str:
    """`count` bytes with three digits and a unit: "61 TiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} EiB"
