"""One data set on the map, wherever its files lay: `data` is a label, the fingerprint is what counts."""

import pandas as pd
import pytest

from analysis import DefendedRegionMap


def trials(labels: list[str], fingerprints: list[str | None]) -> pd.DataFrame:
    """Six seeds at rate 0 and 0.1, the data sets in turn."""
    rows = []
    for rate in (0.0, 0.1):
        for seed in range(6):
            at = seed % len(labels)
            row = {"attack.name": "badnets", "poison_rate": rate, "seed": seed, "clean_accuracy": 0.95}
            row |= {"attack_success": 0.0 if rate == 0 else 1.0, "run_id": f"{rate} {seed}"}
            start = pd.Timestamp(2026, 1, 6 - seed)  # the last label was given first
            rows.append(row | {"data": labels[at], "fingerprint": fingerprints[at], "start_time": start})
    return pd.DataFrame(rows)


SPELLINGS = [
    ["npz:a/my.npz", "npz:b/my.npz"],
    ["npz:x.npz", "npz:/home/me/x.npz"],
    ["mnist", "npz:mnist.npz"],
    ["npz:a.npz[7,1]", "npz:b.npz[7,1]", "npz:c.npz[7,1]"],
]


@pytest.mark.parametrize("labels", SPELLINGS, ids=map(str, SPELLINGS))
def test_a_moved_or_respelt_data_set_is_one(labels: list[str]) -> None:
    region = DefendedRegionMap.from_frame(trials(labels, ["abc"] * len(labels)))
    assert list(region.axes) == ["poison_rate"]
    assert len(region.cells) == 2
    assert all(len(cell.seeds) == 6 for cell in region.cells)
    last = labels[5 % len(labels)]
    assert {cell.setting["data"] for cell in region.cells} == {last}
    assert list(region.reference) == [last]


def test_data_sets_of_one_name_and_other_pixels_are_two() -> None:
    region = DefendedRegionMap.from_frame(trials(["npz:my.npz", "npz:my.npz"], ["abc", "def"]))
    assert "fingerprint" in region.axes
    assert len(region.cells) == 4


@pytest.mark.parametrize("unknown", [None, ""])
def test_without_a_fingerprint_the_name_counts(unknown: str | None) -> None:
    region = DefendedRegionMap.from_frame(trials(["npz:a", "npz:b"], [unknown, unknown]))
    assert region.axes["data"] == ["npz:a", "npz:b"]
