"""Where does the defended region end? Cells are measured where the verdict is least sure, and where none is near.

python sweeps/boundary.py                  digits: a quarter of the grid's trials, then the whole grid, to compare
python sweeps/boundary.py --no-compare     the search alone

A round's cells are chosen together, each for all its seeds, from a map of all that has ended. The search begins at the
same cells each time, and what it asks for and the tracking store has finished costs nothing: so it resumes.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import DefendedRegionMap, records
from analysis.active_search import fit_surrogates, propose
from analysis.grid_boundary import GridBoundary, grid_boundary
from analysis.plots import plot_map
from analysis.report import save_report
from analysis.search_grid import Candidate, Grid
from analysis.space_filling import describe_coverage
from analysis.text_table import format_frame
from raybd.command_line import command, grid
from raybd.command_line.boundary_options import BoundaryOptions
from raybd.command_line.runner import Run
from raybd.errors import InputError
from raybd.execution.outcome import Outcome
from raybd.execution.plan import SweepPlan
from raybd.execution.proposers import ListProposer, Proposal, Signal
from raybd.tracking import load_runs
from raybd.trials.config import TrialConfig
from raybd.trials.validate import prepare
from raybd.utils.summary_folder import SummaryFolder

FILE = "boundary.json"  # the rounds of the search, in the sweep's folder


def expand(options: BoundaryOptions) -> list[TrialConfig]:
    """The trials known beforehand: the first cells with their clean twins, or with `compare` the whole grid.

    Raises:
        InputError: with everything wrong with the options.
    """
    search = BoundarySearch(options, every_trial(options))
    if problems := search.problems():
        raise InputError(problems)
    return search.trials if options.search.compare else search.first_trials()


def every_trial(options: BoundaryOptions) -> list[TrialConfig]:
    """The trials of the whole grid; clean twins are shared by all attacks."""
    rates = grid.distinct((0.0, *options.attack.poison_rates))
    return grid.share_twins(grid.expand(options.replace(poison_rates=tuple(rates))))


@dataclass(frozen=True)
class BoundarySearch:
    """The grid's trials, and which of them to run next."""

    options: BoundaryOptions
    trials: list[TrialConfig]  # of the whole grid

    @cached_property
    def grid(self) -> Grid:
        """The cells with poison."""
        return Grid([trial.params for trial in self.trials if trial.poison_rate])

    @cached_property
    def budget(self) -> int:
        """Most trials of the search."""
        return self.options.search.budget or len(self.trials) // 4

    @cached_property
    def most_seeds(self) -> int:
        """Most seeds of a cell."""
        return self.options.search.most_seeds or 2 * self.options.training.seeds

    @cached_property
    def _at(self) -> dict[Candidate, TrialConfig]:
        return {self.grid.candidate(trial.params): trial for trial in self.trials if trial.poison_rate}

    def problems(self) -> list[str]:
        """Why there is nothing to search, or too little to search with."""
        grid, along = self.grid, self.options.search.along
        usable = [name for name, values in grid.axes.items() if values[0] > 0]
        found = [] if along in usable else [f"--along {along}: no axis of two values above 0 ({', '.join(usable)})"]
        if (first := len(self.first_trials())) > self.budget:
            found.append(f"--budget {self.budget} is less than the {first} trials of the first cells and clean twins")
        return found

    def first_trials(self) -> list[TrialConfig]:
        """Clean twins at the corners of the other axes, for the reference, and the first cells."""
        ends = {name: (v[0], v[-1]) for name, v in self.grid.axes.items() if name != "poison_rate"}
        clean = [trial for trial in self.trials if not trial.poison_rate]
        corners = [t for t in clean if all(t.params[name] in pair for name, pair in ends.items())]
        return corners + self.seeds_of(self.grid.initial_design(), {})

    def seeds_of(self, candidates: Sequence[Candidate], asked: Mapping[Candidate, int]) -> list[TrialConfig]:
        """The next seeds of each candidate."""
        number = self.options.training.seeds
        starts = {candidate: asked.get(candidate, 0) for candidate in candidates}
        return [replace(self._at[s], seed=seed) for s, start in starts.items() for seed in range(start, start + number)]

    def boundary(self, runs: pd.DataFrame) -> tuple[DefendedRegionMap, GridBoundary | None]:
        """The map of `runs`, and the boundary on it, if there are surfaces yet."""
        found = DefendedRegionMap.from_frame(records.canonical_frame(runs))
        surrogates = fit_surrogates(self.grid, found.cells, found.rule)
        return found, grid_boundary(self.grid, surrogates, self.options.search.along) if surrogates else None


class BoundaryProposer(ListProposer):
    """Rounds of cells, each for all its seeds, chosen from a map of what has ended: the least sure, and the farthest.

    It ends when the budget is spent, or when no cell lies two steps from all that were asked for and the boundary's
    band is narrow or every verdict sure.
    """

    def __init__(self, search: BoundarySearch, load: Callable[[], pd.DataFrame]) -> None:
        """`load` reads the runs of the sweep."""
        self.search, self.load = search, load
        self.seeds_asked = dict.fromkeys(search.grid.initial_design(), search.options.training.seeds)
        self.chosen = list(search.first_trials())
        super().__init__(self.chosen)  # of which the list has those of this round
        self.running: set[str] = set()  # keys
        self.rounds: list[dict[str, Any]] = []
        self.reason = ""  # why the search ended; empty while it goes on

    def next(self) -> Proposal:
        """The next trial of this round; after its last outcome, of the next."""
        if not (self.configs or self.running or self.reason):
            self._next_round()
        proposal = super().next()
        if isinstance(proposal, TrialConfig):
            self.running.add(proposal.key)
            return proposal
        return Signal.WAIT if self.running else proposal

    def tell(self, outcome: Outcome) -> None:
        """Note that the trial has ended; its metrics are read from the tracking store."""
        self.running.discard(outcome.key)

    def _next_round(self) -> None:
        search, runs = self.search, self.load()
        found, boundary = search.boundary(runs[runs["tags.raybd.key"].isin([t.key for t in self.chosen])])
        self.rounds.append({"trials": len(self.chosen), "widest": boundary.widest_band if boundary else None})
        self.reason = self._end_reason(boundary)
        candidates = [] if self.reason else self._candidates(found)
        self.reason = self.reason or ("" if candidates else "every cell is measured or beside one that is, and sure")
        line = f"round {len(self.rounds)}: {_describe(self.rounds[-1])}"
        print(f"{line}{', ' * bool(self.reason)}{self.reason}", flush=True)
        new = search.seeds_of(candidates, self.seeds_asked)
        self.seeds_asked |= {c: self.seeds_asked.get(c, 0) + search.options.training.seeds for c in candidates}
        self.chosen += new
        self.configs.extend(new)

    def _end_reason(self, boundary: GridBoundary | None) -> str:
        """Why the search ends now; empty if it goes on."""
        search, narrow = self.search, self.search.options.search.stop_decades
        if boundary is not None and boundary.is_sure(search.grid, self.seeds_asked, narrow):
            return (
                f"the band is nowhere wider than {narrow:g} decades, and each cell is at most a step from an asked one"
            )
        spent = search.budget - len(self.chosen) < search.options.training.seeds
        return f"the budget of {search.budget} trials is spent" if spent else ""

    def _candidates(self, found: DefendedRegionMap) -> list[Candidate]:
        options, search = self.search.options, self.search
        room = min(options.search.batch, (search.budget - len(self.chosen)) // options.training.seeds)
        number = {"seeds": options.training.seeds, "max_seeds": search.most_seeds}
        return propose(search.grid, found.cells, self.seeds_asked, found.rule, batch=room, **number)


def search(options: BoundaryOptions, plan: SweepPlan, run: Run) -> list[TrialConfig]:
    """The active search; all trials that it asked for."""
    known, data = prepare(every_trial(options), options.dataset.data_root, options.attack.every, options.image_bytes)
    proposer = BoundaryProposer(BoundarySearch(options, known), lambda: load_runs(plan.name, plan.store.address.uri))
    run(replace(plan, data=data), proposer)
    _save_search(plan.folder.path, proposer)
    return proposer.chosen


def _describe(one: Mapping[str, Any]) -> str:
    band = "no surface yet" if one["widest"] is None else f"the widest band is {one['widest']:.2f} decades"
    return f"{one['trials']} trials, {band}"


def _save_search(folder: Path, proposer: BoundaryProposer) -> None:
    search = proposer.search
    kept = {
        "along": search.options.search.along,
        "end": proposer.reason,
        "rounds": proposer.rounds,
        "chosen": [trial.key for trial in proposer.chosen],
        "grid": [trial.key for trial in search.trials],
        "settings": search.grid.settings(),
    }
    (folder / FILE).write_text(json.dumps(kept, indent=1))


def summarise(name: str, tracking_uri: str, folder: SummaryFolder) -> tuple[str, list[Path]]:
    """The boundary, line by line; beside it that of the whole grid, where all of it has been run."""
    kept, runs = json.loads((folder / FILE).read_text()), load_runs(name, tracking_uri, all_metrics=True)
    grid = Grid(kept["settings"])
    found, own = _boundary(runs, grid, kept["chosen"], kept["along"])
    seen = {grid.candidate(cell.setting) for cell in found.cells if cell.poisoned and cell.seeds}
    table, text = own.to_frame().assign(holes=own.holes()), [_describe(one) for one in kept["rounds"]]
    text += [f"The search ended: {kept['end']}.", f"{describe_coverage(grid, seen)}."]
    if set(kept["grid"]) <= set(runs["tags.raybd.key"]):
        _, whole = _boundary(runs, grid, kept["grid"], kept["along"])
        away = own.distances(whole)
        table = table.join(whole.to_frame()[["largest defended", "low", "high"]].add_suffix(" (grid)")).assign(
            apart=away
        )
        text.append(_compared(kept, away))
    files = [*folder.save(plot_map(found), "map"), folder / "boundary.csv", folder / FILE]
    table.to_csv(folder / "boundary.csv", index=False)
    title = f"The boundary along {kept['along']}: band and apart in decades, inf: not reached"
    report = save_report(runs, name, folder / "report.html")
    return "\n".join([*text, "", title, format_frame(table.round(4)), "", f"Report: {report}"]), [*files, report]


def _boundary(
    runs: pd.DataFrame, grid: Grid, keys: Sequence[str], along: str
) -> tuple[DefendedRegionMap, GridBoundary]:
    found = DefendedRegionMap.from_frame(records.canonical_frame(runs[runs["tags.raybd.key"].isin(keys)]))
    return found, grid_boundary(grid, fit_surrogates(grid, found.cells, found.rule), along)


def _compared(kept: Mapping[str, Any], away: "np.ndarray[Any, np.dtype[np.float64]]") -> str:
    share = len(kept["chosen"]) / len(kept["grid"])
    return (
        f"Against the whole grid: {len(kept['chosen'])} of {len(kept['grid'])} trials ({share:.0%}); the boundaries of "
        f"{len(away)} lines are {away.mean():.3f} decades apart in the mean, {np.median(away):.3f} in the median, "
        f"{away.max():.3f} at most"
    )


PRESETS = {
    "quick": BoundaryOptions.of(
        poison_rates=(0.0, 0.0025, 0.004, 0.006, 0.01, 0.016),
        weight_decays=(0.005, 0.012, 0.02, 0.03, 0.045, 0.07),
        widths=(0.5, 1.0),
        compare=True,
    ),
    "paper": BoundaryOptions.of(  # arXiv 2511.21923's training, on a grid about its smallest rate
        preset="paper",
        data="cifar10",
        model="resnet18",
        attacks=("badnets:information_bottleneck", "blended:information_bottleneck"),
        poison_rates=(0.0, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02),
        victims="all",
        seeds=5,
        weight_decays=(5e-4, 1e-3, 2e-3, 5e-3, 1e-2),
        widths=(0.25, 0.5, 1.0),
        epochs=(120,),
        batch_sizes=(256,),
        schedule="cosine",
        crop=(0,),
        flip=(False,),
        probes=(120,),
    ),
}


if __name__ == "__main__":
    sys.exit(command.main(PRESETS, summarise, search=search, expand=expand))
