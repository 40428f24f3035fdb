"""The summary of a sweep for a terminal: sentences first, tables of at most 80 columns, all of them as CSV."""

import csv
from pathlib import Path

import pandas as pd

from analysis import DefendedRegionMap
from analysis.sweep_summary import SummaryTable, bullets, grid_table, summary_text


def rows(success: float, rate: float, weight_decay: float) -> list[dict[str, object]]:
    base = {"attack.name": "badnets", "poison_rate": rate, "train.weight_decay": weight_decay, "clean_accuracy": 0.97}
    return [base | {"seed": seed, "attack_success": success + 0.001 * seed} for seed in range(3)]


def made_map() -> DefendedRegionMap:
    trials = [rows(0.01, 0.0, 5e-4), rows(0.91, 0.05, 5e-4), rows(0.01, 0.0, 0.04), rows(0.02, 0.01, 0.04)]
    return DefendedRegionMap.from_frame(pd.DataFrame([row for cell in trials for row in cell]))


def test_the_grid_has_a_column_a_rate_and_a_letter_for_the_verdict() -> None:
    assert grid_table(made_map()).lines == [
        ["attack", "weight_decay", "1%", "5%"],
        ["badnets", "0.0005", "-", "90 B"],
        ["badnets", "0.04", "1 D", "-"],
    ]


def test_sentences_come_first_and_no_line_is_wider_than_a_terminal(tmp_path: Path) -> None:
    wide = SummaryTable("Wide", [["a" * 50, "b" * 50], ["1", "2"]], "wide.csv")
    text, files = summary_text(
        ["word " * 40], [grid_table(made_map()), wide, SummaryTable("None", [], "no.csv")], tmp_path
    )
    assert text.startswith("- word word")
    assert "a" * 50 not in text
    assert str(tmp_path / "wide.csv") in text
    assert all(len(line) <= 80 or str(tmp_path) in line for line in text.splitlines())
    assert files == [tmp_path / "map.csv", tmp_path / "wide.csv"]
    assert list(csv.reader(files[1].read_text().splitlines())) == wide.lines


def test_bullets_are_indented() -> None:
    assert bullets(["x " * 50]).splitlines()[1].startswith("  x")
