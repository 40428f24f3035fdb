"""The memory of a trial: its peak is seen, the next one starts afresh, and the sweep's summary says it."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from raybd.execution import memory
from raybd.execution.outcome import Outcome
from raybd.execution.result import SweepResult
from raybd.trials.records import FINISHED

MIB = 2**20
linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells peaks")


@linux
def test_the_peak_is_that_since_it_was_forgotten() -> None:
    memory.release_memory()  # what earlier tests have left free would hold a part of the block
    memory.reset_peak()
    before = memory.peak()
    block = torch.ones(200 * MIB, dtype=torch.uint8)
    assert 190 < memory.peak() - before < 260
    del block
    memory.release_memory()
    assert memory.peak() - before > 190
    memory.reset_peak()
    assert memory.peak() - before < 60


@linux
def test_what_is_freed_in_pieces_goes_back_to_the_system() -> None:
    code = """
from pathlib import Path
from raybd.execution import memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

before = resident()
pieces = [bytes(50_000) for _ in range(4000)]
kept = pieces[-1]
del pieces
full = resident()
memory.release_memory()
print(full - before, resident() - before)
"""
    keep = {
        "MALLOC_TRIM_THRESHOLD_": str(2**30),
        "MALLOC_MMAP_THRESHOLD_": str(2**30),
        "PYTHONPATH": ":".join(sys.path),
    }
    done = subprocess.run([sys.executable, "-c", code], env=keep, capture_output=True, text=True, check=True)
    full, left = map(float, done.stdout.split())
    assert full > 150
    assert left < 20


def test_where_nothing_is_known_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PROCESS", tmp_path / "absent")
    memory.reset_peak()
    assert memory.peak() == 0
    assert "peak memory" not in summary(0.0)


def test_the_summary_names_the_usual_and_the_highest_peak() -> None:
    assert "peak memory of a trial: 900 MiB, at most 1,100 MiB" in summary(800.0, 900.0, 1100.0)


def summary(*peaks: float) -> str:
    """The end of a sweep whose trials had these peaks."""
    outcomes = [Outcome(f"{i}", "", FINISHED, 1.0, memory=peak) for i, peak in enumerate(peaks)]
    return SweepResult("name", 0, outcomes, 0, 1.0, 1, []).text


def test_triton_is_not_imported_afterwards() -> None:
    code = "from raybd.execution.memory import skip_triton_import as f; f(); import torch; f()\n"
    code += "torch.optim.SGD([torch.zeros(1)], 0.1).zero_grad(); import sys; print(sys.modules['triton'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"


@linux
def test_a_process_keeps_the_memory_of_one_step_for_the_next() -> None:
    code = (
        "from pathlib import Path\nimport numpy as np\nfrom raybd.execution.memory import retain_freed_memory\n"
        "def resident(): return int(Path('/proc/self/statm').read_text().split()[1]) * 4096\n"
        "def kept():\n"
        "    before = resident()\n"
        "    step = np.ones(50_000_000, np.uint8)\n"
        "    del step\n"
        "    return resident() - before > 40_000_000\n"
        "print(kept())\nretain_freed_memory()\nprint(kept())\n"
    )
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_a_freeze_is_undone_unless_the_user_s_own_process_had_frozen_before() -> None:
    assert gc.get_freeze_count() == 0
    with memory.temporary_freeze() as freeze:
        freeze()
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0
    gc.freeze()
    try:
        before = gc.get_freeze_count()
        with memory.temporary_freeze() as freeze:
            freeze()
            assert gc.get_freeze_count() <= before  # a frozen object may die meanwhile
        assert 0 < gc.get_freeze_count() <= before
    finally:
        gc.unfreeze()
