"""S_dev and S1 from journals made by hand, and the figures drawn from them."""

import math

import numpy as np
import pytest
import torch

from raybd.metrics.information.figures import feature_maps, groups_of, information_curves, information_plane
from raybd.metrics.information.stealth_scores import difference_in_differences, phase_entries, s1, s_dev, stealth_scores

CLASSES = {"clean_1": 1.0, "clean_2": 2.0, "clean_3": 3.0, "clean_4": 2.0}


def entry(epoch: int, backdoor: float = 4.0, target: float = 2.0, shift: float = 0.0) -> dict:
    """Clean classes 1, 2, 3, 2 here and in the twin; in the twin the target class is 1 and the backdoor's images 3."""
    metrics = {"mi/samples": 48.0, "accuracy/clean": 0.9}
    own = CLASSES | {"backdoor": backdoor, "target_clean": target, "target": 3.0, "random": 2.5}
    twin = CLASSES | {"backdoor": 3.0, "target_clean": 1.0, "target": 3.0, "random": 2.5}
    for kind in ("xt", "ty"):
        for name, values in ((f"mi/{kind}", own), (f"mi/control/{kind}", twin)):
            for group, value in values.items():
                metrics[f"{name}/{group}"] = value + (shift if "control" not in name else 0.0)
                metrics[f"{name}/{group}/error"] = 0.1
        for group, value in own.items():
            bounds = {"lower": value - 0.5, "upper": value + 0.5, "ceiling": 3.9, "saturated": float(value > 3.7)}
            metrics |= {f"mi/{kind}/{group}/{part}": number for part, number in bounds.items()}
    return {"epoch": epoch, "metrics": metrics}


def test_phases_are_the_paper_s_in_proportion() -> None:
    paper = [entry(e) for e in (1, 5, 10, 20, 40, 60, 80, 100, 120)]
    assert [e["epoch"] for e in phase_entries(paper)] == [5, 40, 100]
    assert [e["epoch"] for e in phase_entries([entry(e) for e in (1, 2, 3, 4, 8, 16, 20)])] == [1, 8, 16]
    assert [e["epoch"] for e in phase_entries([entry(2)])] == [2]
    assert phase_entries([]) == []


def test_s_dev_by_hand() -> None:
    """target_clean 2 is the mean of 1, 2, 3, 2: d = 0. target 3, scaled 1 of 0, .5, 1, .5: d = .5. Twin: d = .5."""
    found = s_dev([entry(1), entry(8), entry(16)])
    assert found["stealth/s_dev/xt"] == pytest.approx(0.5)
    assert found["stealth/s_dev"] == pytest.approx(1.0)
    assert found["stealth/s_dev/xt/null"] == pytest.approx(2 * 0.5)
    assert found["stealth/s_dev/null"] == pytest.approx(2.0)
    scaled = entry(1)
    scaled["metrics"] = {k: 3 * v + 7 if k.startswith("mi/xt") else v for k, v in scaled["metrics"].items()}
    assert s_dev([scaled]) == pytest.approx(s_dev([entry(1)]))


def test_gap_by_hand() -> None:
    """[4 - 2] - [3 - 2] = 1; clean classes move together, so the error is the estimates' alone."""
    value, error = difference_in_differences(entry(1)["metrics"], "xt", "backdoor")
    assert value == pytest.approx(1.0)
    assert error == pytest.approx(math.sqrt(0.02 + 0.02 / 4))
    assert difference_in_differences(entry(1, shift=0.7)["metrics"], "xt", "backdoor") == (
        pytest.approx(1.0),
        pytest.approx(error),
    )
    assert difference_in_differences(entry(1)["metrics"], "xt", "random")[0] == pytest.approx(0.0)
    moved = entry(1)["metrics"]
    moved["mi/xt/clean_1"] += 0.8  # one class of four by 0.8: variance 0.16, mean 0.2
    value, error = difference_in_differences(moved, "xt", "backdoor")
    assert value == pytest.approx(0.8)
    assert error == pytest.approx(math.sqrt(0.16 * 1.25) * 3.1824 / 1.95996, rel=1e-4)  # t of 3 degrees, at 97.5 %


def test_two_errors_hold_nineteen_times_of_twenty() -> None:
    """The backdoor and four clean classes change by chance alone: Student's t makes up for how few they are."""
    rng, hits = np.random.default_rng(0), 0
    metrics = {f"mi/control/xt/{group}": 0.0 for group in (*CLASSES, "backdoor")}
    for changes in rng.normal(size=(4000, 5)):
        own = {f"mi/xt/{group}": float(change) for group, change in zip((*CLASSES, "backdoor"), changes, strict=True)}
        errors = {f"{name}/error": 0.0 for name in (*metrics, *own)}
        value, error = difference_in_differences(metrics | own | errors, "xt", "backdoor")
        hits += abs(value) <= 2 * error
    assert 0.94 <= hits / 4000 <= 0.965


def test_s1_by_hand() -> None:
    found = s1([entry(1, backdoor=4.0), entry(8, backdoor=2.0), entry(16, backdoor=4.0)])
    error = math.sqrt(0.025)
    assert found["stealth/g_xt"] == pytest.approx((1 - 1 + 1) / 3)
    assert found["stealth/s1"] == pytest.approx(1 / error)
    assert found["stealth/s1/null"] == pytest.approx(0.0, abs=1e-9)
    assert found["stealth/g_ty/error"] == pytest.approx(error)


def test_nothing_without_its_null() -> None:
    alone = entry(1)
    alone["metrics"] = {k: v for k, v in alone["metrics"].items() if "control" not in k}
    assert stealth_scores([alone]) == {}
    assert stealth_scores([{"epoch": 1, "metrics": {"accuracy/clean": 0.5}}]) == {}
    found = stealth_scores([entry(1), {"epoch": 2, "metrics": {"accuracy/clean": 0.5}}, entry(4)])
    assert {"stealth/s_dev", "stealth/s_dev/null", "stealth/s1", "stealth/s1/null"} <= found.keys()
    assert all(math.isfinite(value) for value in found.values())


def test_figures_show_every_group_and_epoch() -> None:
    history = [entry(1), {"epoch": 2, "metrics": {"accuracy/clean": 0.5}}, entry(4), entry(16)]
    groups = groups_of([history[0]])
    assert groups == ["backdoor", "target_clean", "target", "random", "clean_1", "clean_2", "clean_3", "clean_4"]
    plane = information_plane(history, "a title").axes[0]
    assert len(plane.lines) == len(groups)
    assert plane.lines[0].get_xydata().shape == (3, 2)  # type: ignore[union-attr]
    curves = information_curves(history, "a title")
    for axes in curves.axes:
        assert len(axes.lines) == len(groups) + 1
        assert axes.lines[-1].get_ydata().tolist() == [3.9] * 3  # type: ignore[union-attr]
    points = torch.tensor([[0.0, 0, 0, 1], [1, 1, 0, 0], [2, 2, 1, 0], [3, 1, 2, 0]])
    maps = feature_maps({f"mi/map/{epoch}": points for epoch in (1, 2, 4, 8, 16, 20)}, "a title")
    assert [axes.get_title() for axes in maps.axes] == ["epoch 1", "epoch 8", "epoch 20"]
    assert [text.get_text() for text in maps.legends[0].get_texts()][-1] == "backdoor"
