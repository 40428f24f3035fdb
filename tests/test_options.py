"""The groups of options: one flat list of flags, replaced by name, checked by the constraints on their fields."""

from collections.abc import Iterator
from dataclasses import fields

import pytest

from raybd.command_line.boundary_options import BoundaryOptions
from raybd.command_line.curve_options import CurveOptions
from raybd.command_line.options import SweepOptions, parse_options
from raybd.command_line.search_options import SearchOptions
from sweeps import attacks, boundary, defences, ib, learning_curves, smoothing, vibe

KINDS = (SweepOptions, CurveOptions, SearchOptions, BoundaryOptions)


def presets() -> Iterator[SweepOptions]:
    for script in (attacks, boundary, defences, ib, learning_curves, smoothing, vibe):
        yield from script.PRESETS.values()


@pytest.mark.parametrize("kind", KINDS)
def test_a_flag_belongs_to_one_group(kind: type[SweepOptions]) -> None:
    options = kind()
    flags = ["name", "preset", *(f.name for group in options.groups().values() for f in fields(group))]
    assert len(flags) == len(set(flags)) == len(options.flat()) >= 41
    assert not set(flags) & set(options.groups())


def test_values_reach_the_group_that_has_them() -> None:
    options = CurveOptions.of(seeds=7, data="mnist", Cs=(1.0,), name="x")
    assert (options.training.seeds, options.dataset.data, options.curves.Cs, options.name) == (7, "mnist", (1.0,), "x")
    assert options.attack == CurveOptions().attack  # the sweep's own defaults, not those of every sweep
    assert options.replace(seeds=8).flat() == options.flat() | {"seeds": 8}
    with pytest.raises(TypeError, match="unknown option: seed .*did you mean seeds"):
        options.replace(seed=1)


def test_every_preset_is_in_range() -> None:
    assert [problem for options in presets() for problem in options.problems()] == []


def test_ranges_are_told_all_at_once_by_their_flags() -> None:
    wrong = {"validation": 1.0, "poison_rates": (0.1, 2.0), "widths": (0.0,), "epochs": (), "batch_sizes": (1,)}
    wrong |= {"noise": -1.0, "stall_seconds": 0.0, "max_concurrent": 0, "cpus_per_trial": 0.0, "workers_per_trial": 0}
    said = SweepOptions.of(**wrong).problems()
    assert {line.split()[0] for line in said} == {f"--{name.replace('_', '-')}" for name in wrong}
    assert "--poison-rates must be in [0, 1], got 2" in said
    assert "--epochs needs at least one value" in said


def test_the_command_line_changes_what_it_names() -> None:
    quick = ib.PRESETS["quick"]
    options = parse_options(ib.PRESETS, "--seeds 4 --poison-rates 0 0.2 --inline --sync-batch-norm".split())
    changed = {"seeds": 4, "poison_rates": (0.0, 0.2), "inline": True, "sync_batch_norm": True}
    assert options.flat() == quick.flat() | changed
    assert parse_options(ib.PRESETS, ["--preset=paper"]) == ib.PRESETS["paper"]
