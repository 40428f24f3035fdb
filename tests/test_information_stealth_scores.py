"""S_dev and S1 from journals made by hand, and the figures drawn from them."""

import math

import pytest
import torch

from raybd.metrics.information.figures import feature_maps, groups_of, information_curves, information_plane
from raybd.metrics.information.stealth_scores import phase_entries, s1, s_dev, stealth_scores

CLASSES = {"clean_1": 1.0, "clean_2": 2.0, "clean_3": 3.0, "clean_4": 2.0}


def entry(epoch: int, signature: float = -0.4) -> dict:
    """Clean classes 1, 2, 3, 2 here and in the twin; in the twin the target class is 1 and the backdoor's images 3."""
    metrics = {"mi/samples": 48.0, "accuracy/clean": 0.9}
    own = CLASSES | {"backdoor": 4.0, "target_clean": 2.0, "target": 3.0, "random": 2.5}
    twin = CLASSES | {"backdoor": 3.0, "target_clean": 1.0, "target": 3.0, "random": 2.5}
    for kind in ("xt", "ty"):
        for name, values in ((f"mi/{kind}", own), (f"mi/control/{kind}", twin)):
            for group, value in values.items():
                metrics[f"{name}/{group}"] = value
                metrics[f"{name}/{group}/error"] = 0.1
        for group, value in own.items():
            bounds = {"lower": value - 0.5, "upper": value + 0.5, "ceiling": 3.9, "saturated": float(value > 3.7)}
            metrics |= {f"mi/{kind}/{group}/{part}": number for part, number in bounds.items()}
    parts = {"": signature, "/error_total": 0.1, "/null": 0.05, "/null/ratio": 0.7, "/saturated": 0.0}
    metrics |= {f"mi/signature{part}": number for part, number in parts.items()}
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
    scaled["metrics"] = {
        k: 3 * v + 7 if k.startswith("mi/xt") and "saturated" not in k else v for k, v in scaled["metrics"].items()
    }
    assert s_dev([scaled]) == pytest.approx(s_dev([entry(1)]))


@pytest.mark.parametrize("name", ["mi/xt/clean_2", "mi/xt/target", "mi/control/xt/target_clean"])
def test_s_dev_of_a_saturated_value_cannot_be_told(name: str) -> None:
    entries = [entry(1), entry(8), entry(16)]
    assert s_dev(entries)["stealth/s_dev/saturated"] == s_dev(entries)["stealth/s_dev/xt/saturated"] == 0
    entries[1]["metrics"][f"{name}/saturated"] = 1.0
    found = s_dev(entries)
    assert found["stealth/s_dev/saturated"] == found["stealth/s_dev/xt/saturated"] == 1
    assert found["stealth/s_dev/ty/saturated"] == 0
    assert found["stealth/s_dev/ty"] == pytest.approx(0.5)
    part = "null" if "control" in name else "target"
    assert ("stealth/s_dev/xt/null" in found) == (part != "null")
    assert ("stealth/s_dev" in found) == ("stealth/s_dev/xt" in found) == (part == "null")


def test_s1_by_hand() -> None:
    found = s1([entry(1, -0.4), entry(8, 0.2), entry(16, -0.4)])
    assert found["stealth/g_xt"] == pytest.approx(-0.2)
    assert found["stealth/s1"] == pytest.approx((4 + 2 + 4) / 3)
    assert found["stealth/s1/null"] == pytest.approx(0.7)
    assert found["stealth/g_xt/error"] == pytest.approx(0.1)
    assert found["stealth/g_xt/null"] == pytest.approx(0.05)
    assert found["stealth/s1/saturated"] == 0


def test_s1_cannot_be_told_where_a_phase_cannot() -> None:
    entries = [entry(1), entry(8), entry(16)]
    entries[0]["metrics"] = {"mi/samples": 48.0, "mi/signature/saturated": 1.0}
    assert s1(entries) == {"stealth/s1/saturated": 1.0}
    assert stealth_scores(entries)["stealth/s1/saturated"] == 1
    assert "stealth/s1" not in stealth_scores(entries)


def test_nothing_without_its_null() -> None:
    alone = entry(1)
    alone["metrics"] = {k: v for k, v in alone["metrics"].items() if "control" not in k and "signature" not in k}
    twinless = alone["metrics"] | {"mi/signature": 0.0, "mi/signature/error": 0.0}  # of a trial that is its own twin
    assert stealth_scores([{"epoch": 1, "metrics": twinless}]) == {}
    assert stealth_scores([alone]) == {}
    assert stealth_scores([{"epoch": 1, "metrics": {"accuracy/clean": 0.5}}]) == {}
    found = stealth_scores([entry(1), {"epoch": 2, "metrics": {"accuracy/clean": 0.5}}, entry(4)])
    assert {"stealth/s_dev", "stealth/s_dev/null", "stealth/s1", "stealth/s1/null"} <= found.keys()
    assert all(math.isfinite(value) for value in found.values())


def test_bounds_without_a_middle_cannot_be_told() -> None:
    """S_dev of I(T;Y) where no group has a value, or where one class of four has none; I(X;T) is left as it is."""
    whole = entry(1)["metrics"] | {f"mi/control/ty/{group}/saturated": 0.0 for group in CLASSES}
    none = {k: v for k, v in whole.items() if not (k.startswith(("mi/ty/", "mi/control/ty/")) and k[-2:] != "ed")}
    one_less = {k: v for k, v in whole.items() if k != "mi/ty/clean_2"}
    for metrics in (none, one_less):
        found = s_dev([{"epoch": 1, "metrics": metrics}])
        assert found["stealth/s_dev/xt"] == pytest.approx(0.5)
        assert found["stealth/s_dev/ty/saturated"] == found["stealth/s_dev/saturated"] == 1
        assert not {"stealth/s_dev/ty", "stealth/s_dev"} & found.keys()


def test_figures_show_bounds_without_a_middle() -> None:
    history = [entry(1), entry(4)]
    for line in history:
        del line["metrics"]["mi/ty/random"]
    plane, curves = information_plane(history, "a title").axes[0], information_curves(history, "a title").axes
    index = groups_of(history).index("random")
    assert plane.lines[index].get_ydata().tolist() == [2.0, 2.0]  # type: ignore[union-attr]  # the lower bounds
    bars = plane.collections[2 * index].get_segments()  # type: ignore[attr-defined]
    assert bars[0].tolist() == [[2.5, 2.0], [2.5, 3.0]]
    drawn = [line.get_ydata().tolist() for line in curves[1].lines[2 * index : 2 * index + 2]]  # type: ignore[union-attr]
    assert drawn == [[3.0, 3.0], [2.0, 2.0]]
    assert curves[0].lines[index].get_ydata().tolist() == [2.0, 2.0]  # type: ignore[union-attr]


def test_figures_show_every_group_and_epoch() -> None:
    history = [entry(1), {"epoch": 2, "metrics": {"accuracy/clean": 0.5}}, entry(4), entry(16)]
    groups = groups_of([history[0]])
    assert groups == ["backdoor", "target_clean", "target", "random", "clean_1", "clean_2", "clean_3", "clean_4"]
    plane = information_plane(history, "a title").axes[0]
    assert len(plane.lines) == len(groups)
    assert plane.lines[0].get_xydata().shape == (3, 2)  # type: ignore[union-attr]
    curves = information_curves(history, "a title")
    for axes, each in zip(curves.axes, (1, 2), strict=True):
        assert len(axes.lines) == each * len(groups) + 1
        assert axes.lines[-1].get_ydata().tolist() == [3.9] * 3  # type: ignore[union-attr]
    points = torch.tensor([[0.0, 0, 0, 1], [1, 1, 0, 0], [2, 2, 1, 0], [3, 1, 2, 0]])
    maps = feature_maps({f"mi/map/{epoch}": points for epoch in (1, 2, 4, 8, 16, 20)}, "a title")
    assert [axes.get_title() for axes in maps.axes] == ["epoch 1", "epoch 8", "epoch 20"]
    assert [text.get_text() for text in maps.legends[0].get_texts()][-1] == "backdoor"
