"""The benchmarks' own machinery: the GPU script runs whole at a small size, and its checks see what is wrong."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raybd.defences.vibe import transport
from raybd.metrics.information import plug_in_estimator
from raybd.metrics.smoothing import votes
from raybd.tracking import load_runs
from raybd.tracking.store import Store
from tests.benchmarks import gpu, gpu_first, timing, trial
from tests.benchmarks.timing import HEAD, Row, apart, interleave, markdown, rate, require

pytestmark = pytest.mark.usefixtures("one_thread")

AT = gpu.Bench(torch.device("cpu"), gpu.SMALL)


def test_the_gpu_script_runs_whole_and_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(["--device", "cpu", "--small"])
    said = capsys.readouterr().out
    assert "left out" not in said
    rows = [line for line in said.splitlines() if line.startswith("| ")][2:]
    wanted = ["epoch of", "bf16 peak", "1 at once", "2 at once", "E-step 300", "E-step 200", "smoothing", "MI probe"]
    assert len(rows) == len(wanted)
    for row, name in zip(rows, wanted, strict=True):
        assert name in row
        assert float(row.split("|")[2].strip().replace(",", "")) > 0


@pytest.mark.long
def test_what_is_tried_first_needs_neither_ray_nor_mlflow(tmp_path: Path) -> None:
    """In processes, the script's own too, in which the two cannot be imported."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules.update(ray=None, mlflow=None)\n")
    rng = np.random.default_rng(0)
    half = rng.integers(0, 256, (100, 8, 8, 3), dtype=np.uint8), np.arange(100) % 10
    names = ("x_train", "y_train", "x_test", "y_test")
    np.savez(tmp_path / "made.npz", **dict(zip(names, (*half, *half), strict=True)))
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parent.parent)])
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--first", "--device", "cpu", "--small"]
    parts = [name for name in ("networks", *gpu_first.FIRST) if name != "shared_card"]  # "packed", which is run above
    command += ["--data", f"npz:{tmp_path}/made.npz", "--only", *parts]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "left out" not in done.stdout
    for name in ("epoch of PreActResNet18", "epoch of small_cnn", "bf16 peak", *gpu_first.DEFENDED, "all_reduce of 2"):
        assert name in done.stdout
    for name in ("resnet18, 16 px, measures", "twice: the same bits", "BadNets at 1%", "BadNets at 5%"):
        assert name in done.stdout


def test_a_part_that_would_begin_too_late_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.measure(AT, ["badnets"], minutes=-1.0) == []
    assert "badnets is left out: -1 minutes are nearly over" in capsys.readouterr().out


def test_the_checks_pass_by_a_margin() -> None:
    loss, angle = gpu.gradients_apart(AT, "bf16")
    assert loss < 0.01
    assert angle > 0.94
    loss, angle = gpu.gradients_apart(AT, "fp32")
    assert loss < 1e-5
    assert angle > 0.999999


def test_a_forward_pass_is_counted_as_by_hand() -> None:
    at = gpu.Bench(torch.device("cpu"), gpu.Sizes(width=1.0, side=32))
    assert gpu.forward_work(at) == pytest.approx(2 * 0.5559e9, rel=1e-3)  # 0.556 GMAC, as published for this net


@pytest.mark.parametrize(
    ("module", "name", "part"),
    [
        (gpu, "prepare", "training"),
        (transport, "solve", "e_step"),
        (votes, "count_votes", "smoothing"),
        (plug_in_estimator, "plug_in_scores", "information"),
    ],
)
def test_what_is_wrong_stops_the_script(module: Any, name: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = getattr(module, name)

    def wrong(*args: Any) -> Any:
        found = right(*args)
        if part == "e_step":
            found.duals[0] += 0.1
        elif part == "smoothing":
            found.votes.copy_(found.votes.roll(1, -1))
        elif part == "information":  # as a device whose numbers are off would
            return (
                found + 0.1 * torch.eye(*found.shape[-2:]) * (found.dtype == torch.float32) if found.ndim > 1 else found
            )
        else:
            return 0.8 * found
        return found

    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(SystemExit, match="the two sides differ"):
        gpu.PARTS[part](AT)


def test_a_missing_package_leaves_one_part_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "raybd.defences.vibe.transport", None)
    assert gpu.measure(AT, ["e_step"]) == []
    assert "e_step is left out" in capsys.readouterr().out


def test_every_part_of_a_trial_can_be_clocked() -> None:
    with trial._clocks() as seconds:
        assert not seconds


def test_the_table_is_markdown() -> None:
    lines = markdown([Row("a", 1234.5, None, 3, "s"), Row("bb", 2.0, 1.0, 5, "s", (1.5, 2.5))]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == HEAD
    assert set("".join(cells[1])) == {"-"}
    assert cells[2] == ["a", "1,230", "-", "-", "3", "s"]
    assert cells[3] == ["bb", "2", "1", "2.00 (1.50 to 2.50)", "5", "s"]
    assert len({len(line) for line in lines}) == 1


def test_sides_are_timed_in_turn_after_one_that_does_not_count() -> None:
    seen: list[str] = []
    seconds = interleave({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, 2)
    assert "".join(seen) == "ababab"
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 2, "b": 2}
    row = rate("r", [1.0, 2.0, 4.0], [2.0, 2.0, 2.0], (10, 10))
    assert (row.ours, row.plain, row.ratios) == (5.0, 5.0, (0.5, 2.0))


def test_sides_that_differ_stop_everything() -> None:
    require(True, "nothing")
    with pytest.raises(SystemExit, match="the two sides differ: sums"):
        require(False, "sums")


def test_a_filled_store_reads_like_one_that_trials_wrote(tmp_path: Path) -> None:
    from tests.benchmarks.sweep import fill

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    store = Store.open("filled", uri)
    fill(store, 30)
    runs = load_runs("filled", uri)
    assert len(runs) == runs["run_id"].nunique() == 30
    assert set(runs["status"]) == {"FINISHED"}
    assert not runs.isna().any().any()  # every copy has the metrics, parameters and tags of the first
    assert {f"metrics.metric/{i}" for i in range(20)} | {f"params.param.{i}" for i in range(40)} <= set(runs)
    assert len(store.client.get_metric_history(runs["run_id"][29], "metric/3")) == 5


def test_the_driver_s_memory_is_read_at_shares_of_the_trials() -> None:
    from tests.benchmarks.sweep import _at

    seen = [(count, 100.0 + count) for count in range(1, 9)]
    assert (_at(seen, 0.25), _at(seen, 1.0)) == (102, 108)


def test_processes_of_their_own_are_told_of_memory_what_people_s_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "side.py").write_text(
        "import os, sys\nprint('noise')\nprint(len(sys.argv[1]) + ('MALLOC_TRIM_THRESHOLD_' in os.environ) / 2)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    monkeypatch.setattr(timing, "APART", 2)
    assert apart("side", {"ours": ["a"], "plain": ["abc"]}) == {"ours": [1.5, 1.5], "plain": [3.0, 3.0]}
