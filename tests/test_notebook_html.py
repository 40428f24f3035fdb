"""What maps, slices, verdicts, comparisons and results show in a notebook."""

import re
import sys
from types import ModuleType

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from analysis import DefendedRegionMap
from analysis.style import STYLES
from raybd.execution.outcome import Outcome
from raybd.execution.result import SweepResult
from raybd.training import TrainConfig
from raybd.trials.config import TrialConfig
from raybd.trials.model import ModelConfig
from raybd.trials.run import run_trial
from raybd.types import Data
from tests.test_report import HOSTILE, Page


def rows(rate: float, success: float, defence: str = "none") -> list[dict]:
    base = {"attack.name": HOSTILE, "poison_rate": rate, "defence.name": defence, "clean_accuracy": 0.9}
    return [base | {"seed": seed, "attack_success": success, "run_id": f"{rate}{defence}{seed}"} for seed in range(3)]


@pytest.fixture(scope="module")
def region() -> DefendedRegionMap:
    cells = [*rows(0.0, 0.01), *rows(0.1, 0.9), *rows(0.0, 0.01, "vibe"), *rows(0.1, 0.02, "vibe")]
    return DefendedRegionMap.from_frame(pd.DataFrame(cells))


def shown(something: object) -> str:
    """Its HTML, which is well formed, and in which a hostile name stays text."""
    html: str = something._repr_html_()  # type: ignore[attr-defined]
    page = Page(html)
    assert page.open == []
    assert "script" not in page.tags
    return re.sub("<[^>]*>", " ", html)


def test_a_verdict_says_what_its_text_says(region: DefendedRegionMap) -> None:
    verdict = region.query(attack=HOSTILE, poison_rate=0.1, defence="none")
    text = shown(verdict)
    assert f"{STYLES['backdoored'].face}" in verdict._repr_html_()
    for words in ("backdoored", "attack success", str(verdict.attack_success), "evidence", "3 trials"):
        assert words in text
    assert "was not measured" in shown(region.query(attack=HOSTILE, poison_rate=0.05, defence="none"))


def test_a_slice_and_a_map_show_a_cell_for_each_verdict(region: DefendedRegionMap) -> None:
    part = region.slice(x="defence", y="poison_rate", attack=HOSTILE)
    assert part._repr_html_().count('class="cell"') == 4
    assert "ASR 90.0%" in shown(part)
    assert region._repr_html_().count('class="cell"') == 4
    assert "3 seeds a cell" in shown(region)


def test_a_comparison_shows_its_cells(region: DefendedRegionMap) -> None:
    found = region.compare("vibe", "none")
    text = shown(found)
    assert "1 cells, 1 won, 0 lost, 0 tied" in text
    assert "-88.0 points" in text
    assert "backdoored" in text


def test_a_sweep_shows_its_failures() -> None:
    good = Outcome(key="a", label="badnets 0.1", status="FINISHED")
    bad = Outcome(key="b", label=HOSTILE, status="FAILED", error="it broke")
    text = shown(SweepResult("a sweep", 2, [good, bad], 0, 3.0, 1, []))
    for words in ("a sweep", "1 finished, 1 failed, 2 before", "it broke"):
        assert words in text


def test_a_trial_shows_its_rates_first(digits: Data) -> None:
    train = TrainConfig(epochs=1)
    config = TrialConfig(poison_rate=0.05, model=ModelConfig(width=0.25), train=train)
    result = run_trial(config, digits)
    text = shown(result)
    assert text.index("accuracy/clean") < text.index("attack_success") < text.index("loss/clean")
    assert f"{result.metrics['attack_success']:.3g}" in text


def test_a_slice_is_a_figure_of_pyplot_in_a_notebook_alone(
    region: DefendedRegionMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    mpl.use("agg")
    part = region.slice(x="defence", y="poison_rate", attack=HOSTILE)
    assert len(part.plot().texts) == 4
    assert plt.get_fignums() == []
    ipython = ModuleType("IPython")
    ipython.get_ipython, ipython.version_info = object, (9, 0)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    axes = part.plot()
    assert [plt.figure(number) for number in plt.get_fignums()] == [axes.figure]
    plt.close("all")
