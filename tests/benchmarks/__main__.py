"""Both sides of every speed claim, on one thread: `python -m tests.benchmarks [--only NAME ...]`.

`python -m tests.benchmarks audit OPTIONS` measures what audits find; it has options of its own.
"""

import argparse
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import torch

from raybd.execution import memory
from tests.benchmarks.learning_curves import learning_curves
from tests.benchmarks.mutual_information import mutual_information
from tests.benchmarks.poisoning import poisoning
from tests.benchmarks.region_map import region_map
from tests.benchmarks.smoothing import smoothing
from tests.benchmarks.stored_map import stored_map
from tests.benchmarks.timing import Row, markdown
from tests.benchmarks.training import training
from tests.benchmarks.trial import trial
from tests.benchmarks.vibe import vibe

BENCHMARKS: dict[str, Callable[[], list[Row]]] = {
    "poisoning": poisoning,
    "training": training,
    "trial": trial,
    "mutual_information": mutual_information,
    "smoothing": smoothing,
    "learning_curves": learning_curves,
    "region_map": region_map,
    "stored_map": stored_map,
    "vibe": vibe,
}


def sweep() -> list[Row]:
    """See tests/benchmarks/sweep.py, which starts Ray."""
    from tests.benchmarks.sweep import sweep as measured

    return measured()


def driver() -> list[Row]:
    """See tests/benchmarks/driver.py, which starts Ray."""
    from tests.benchmarks.driver import driver as measured

    return measured()


def planted() -> list[Row]:
    """Answers against planted maps, as tables of their own: they time nothing."""
    from tests.benchmarks.planted_boundaries import planted_boundaries
    from tests.benchmarks.planted_verdicts import planted_verdicts

    print(planted_verdicts(), flush=True)
    print(planted_boundaries(), flush=True)
    return []


def inspect() -> list[Row]:
    """How many networks an inspection tells right, as a table: it times nothing."""
    from tests.benchmarks.inspect_networks import inspect_networks

    print(inspect_networks(), flush=True)
    return []


def resist() -> list[Row]:
    """Planted trainings, as tables of their own; RAYBD_RESIST_ONLY="softmax knn" names some of them."""
    from tests.benchmarks.resist import resist_table

    print(resist_table(os.environ.get("RAYBD_RESIST_ONLY", "").split()), flush=True)
    return []


ALONE = {
    "sweep": sweep,
    "driver": driver,
    "planted": planted,
    "inspect": inspect,
    "resist": resist,
}  # take minutes: only where they are asked for


def main() -> None:
    """Run the benchmarks, print the table of each and then one of all."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS | ALONE, default=list(BENCHMARKS), metavar="NAME")
    parser.add_argument("names", nargs="*", metavar="NAME", help="the same as --only NAME")
    given = parser.parse_args()
    if bad := [name for name in given.names if name not in BENCHMARKS | ALONE]:
        parser.error(f"unknown: {', '.join(bad)} (known: {', '.join([*BENCHMARKS, *ALONE])})")
    torch.set_num_threads(1)
    memory.skip_triton_import()
    memory.retain_freed_memory()  # for both sides, as in a sweep: fresh pages cost a stamp more than its arithmetic
    start, rows = time.perf_counter(), []
    for name in given.names or given.only:
        print(f"{name} ...", flush=True)
        found = (BENCHMARKS | ALONE)[name]()
        if found:
            print(markdown(found), flush=True)  # at once: a later one may fail
        rows += found
    print(f"\n{machine()}\n{time.perf_counter() - start:.0f} s in all\n")
    print(markdown(rows) if rows else "")


def machine() -> str:
    """What the numbers were measured on."""
    packages = ("torch", "torchvision", "numpy", "pillow", "mlflow")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    cpu = f"{_cpu()}, {os.cpu_count()} cores, of which one is used"
    return f"{cpu}\npython {platform.python_version()}, {versions}"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    if sys.argv[1:2] == ["audit"]:
        from tests.benchmarks import audit

        torch.set_num_threads(1)
        audit.main(sys.argv[2:])
    else:
        main()
