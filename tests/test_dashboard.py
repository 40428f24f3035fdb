"""The study of a search in optuna-dashboard: served, asked, and looked at in a browser."""

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from raybd.execution.search import name_metrics, tell_study
from tests.conftest import free_port

GOALS, LIMITS = {"accuracy": "max", "attack_success_excess": "min"}, {"accuracy_loss": 0.02}
CANDIDATES = ((0.9, 0.02, 0.06), (0.97, 0.03, 0.0), (0.5, 0.6, 0.4))  # the last one is cut short


@pytest.fixture
def dashboard(tmp_path: Path) -> Iterator[str]:
    """The address of a dashboard on a study of three candidates."""
    storage = f"sqlite:///{tmp_path}/optuna.db"
    study = optuna.create_study(study_name="vibe", storage=storage, directions=["maximize", "minimize"])
    name_metrics(study, list(GOALS))
    for number, values in enumerate(CANDIDATES):
        trial = study.ask()
        trial.suggest_float("kappa", 3.0, 80.0)
        results: dict[str, Any] = dict(zip([*GOALS, *LIMITS], values, strict=True))
        tell_study(study, trial, results | ({"cut_short": 1} if number == 2 else {}), GOALS, LIMITS)
    port = free_port()
    command = [str(Path(sys.executable).parent / "optuna-dashboard"), storage, "--port", str(port), "--quiet"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield _once_up(f"http://127.0.0.1:{port}")
    finally:
        server.terminate()
        server.wait(30)


def _once_up(address: str) -> str:
    for _ in range(300):
        try:
            _get(f"{address}/api/studies")
        except OSError:
            time.sleep(0.2)
        else:
            return address
    raise TimeoutError(f"{address} did not come up within a minute")


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.loads(answer.read())


def test_the_dashboard_shows_the_study(dashboard: str, tmp_path: Path) -> None:
    (summary,) = _get(f"{dashboard}/api/studies")["study_summaries"]
    assert summary["study_name"] == "vibe"
    study = _get(f"{dashboard}/api/studies/{summary['study_id']}?after=0")
    assert study["objective_names"] == list(GOALS)
    assert [trial["state"] for trial in study["trials"]] == ["Complete", "Complete", "Pruned"]
    # optuna-dashboard 0.21 knows constraints of older Optunas alone; what was cut short is not on its front
    assert {trial["number"] for trial in study["best_trials"]} <= {0, 1}
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("NO BROWSER ON PATH (chromium, google-chrome): the dashboard was not looked at by one")
    page = _look(browser, f"{dashboard}/dashboard/studies/{summary['study_id']}", tmp_path)
    for part in ("vibe", *GOALS, "Pareto Front"):
        assert part in page


def _look(browser: str, url: str, folder: Path) -> str:
    """The page as a browser has made it after twenty seconds of its clock."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile", "--no-first-run"]
    flags += ["--disable-background-networking", "--virtual-time-budget=20000", "--dump-dom"]
    return subprocess.run([browser, *flags, url], capture_output=True, text=True, timeout=180, check=True).stdout
