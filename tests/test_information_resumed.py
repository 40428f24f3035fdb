"""A trial that was interrupted logs what one that was never stopped logs: no number hangs on a process's state."""

import ast
from pathlib import Path

import pytest

import raybd
from raybd.data import load
from raybd.metrics.mutual_information import MutualInformation
from raybd.metrics.stealth import Stealth
from raybd.metrics.stealthiness import Stealthiness
from raybd.training import Checkpoint, TrainConfig
from raybd.trials.config import TrialConfig
from raybd.trials.model import ModelConfig
from raybd.trials.run import run_trial
from raybd.types import Report

CONFIG = TrialConfig(
    data="digits[0,1,2,3]",
    poison_rate=0.1,
    model=ModelConfig(noise=0.4, width=0.25),
    train=TrainConfig(epochs=3),
    probes=(1, 2, 3),
    metrics=(MutualInformation(samples=32, passes=2, classes=2, trained=True), Stealthiness(samples=64), Stealth()),
)
# Caches of what their keys determine: a two-class problem by its data and settings, data by fingerprint and device, the
# memory of a network's activations by its layers, sources by their files; and processes that a watchdog has started.
CACHES = {
    ("trials/convex.py", "_last"),
    ("execution/attempt.py", "_resident"),
    ("models/activation_memory.py", "_counted"),
    ("models/adapted.py", "_reasons"),
    ("utils/source_files.py", "_first_seen"),
    ("execution/watchdog.py", "_kept"),
    ("plugins/own.py", "_modules"),
    ("plugins/own.py", "_names"),
    ("plugins/own.py", "_told"),
}

MAKERS = {"dict", "list", "set", "defaultdict", "deque", "OrderedDict", "WeakKeyDictionary", "WeakValueDictionary"}


def test_a_resumed_trial_logs_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raybd.metrics.information.trained_critics.STEPS", 20)
    monkeypatch.setattr("raybd.metrics.stealthiness.DECODERS", ("neighbours",))  # the quickest
    digits, shared = load("digits[0,1,2,3]"), tmp_path / "shared"
    reports: list[Report] = []
    whole = run_trial(CONFIG, digits, reports.append, shared=shared)
    before: list[Report] = []

    def stop(report: Report) -> None:
        if report.epoch == 3:  # the state after epoch 2 has been saved
            raise RuntimeError("killed")
        before.append(report)

    path = tmp_path / "state.pt"
    with pytest.raises(RuntimeError, match="killed"):
        run_trial(CONFIG, digits, stop, Checkpoint(path, every=0), shared=shared)
    earlier = [{"epoch": report.epoch, "metrics": report.metrics} for report in before]
    resumed = run_trial(CONFIG, digits, reports.append, Checkpoint(path), shared=shared, earlier=earlier)
    assert [report.epoch for report in reports] == [1, 2, 3, 3]
    pairs = [(reports[2].metrics, reports[3].metrics), (whole.metrics, resumed.metrics)]
    for one, other in pairs:
        names = one.keys() | other.keys()
        assert sum(name.startswith("mi/trained/") for name in names) > 30
        assert [n for n in sorted(names - {"seconds/trial"}) if one.get(n) != other.get(n)] == []


def test_no_module_keeps_state() -> None:
    """No empty container in a module's globals, to be filled while trials run, but for caches of what keys say."""
    root = Path(raybd.__file__).parent
    found = {(str(path.relative_to(root)), name) for path in root.rglob("*.py") for name in _containers(path)}
    assert found == CACHES


def _containers(path: Path) -> list[str]:
    """The module's globals that begin as an empty container."""
    found = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and _is_empty(node.value):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [target.id for target in targets if isinstance(target, ast.Name)]
    return found


def _is_empty(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        return value.func.id in MAKERS and not [arg for arg in value.args if not isinstance(arg, ast.Name)]
    return (isinstance(value, ast.Dict) and not value.keys) or (isinstance(value, ast.List) and not value.elts)
