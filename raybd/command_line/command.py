"""The main function of every sweep script: reads the options, then lists the trials or runs them."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raybd.command_line import grid
from raybd.command_line.dry_run import print_trials
from raybd.command_line.options import SweepOptions, read
from raybd.errors import InputError
from raybd.trials.config import TrialConfig

if TYPE_CHECKING:
    from raybd.command_line.runner import Search, Summary


def main(
    presets: Mapping[str, SweepOptions],
    summarise: "Summary",
    args: Sequence[str] | None = None,
    search: "Search | None" = None,
    expand: Callable[[Any], list[TrialConfig]] = grid.expand,
) -> int:
    """Run the sweep that `args` (default: the command line) ask for; the exit status.

    `expand` turns the options into trials. `search` comes first, where there is one, and adds trials to the sweep.
    0: every trial has finished; 1: some have not; 2: the options cannot be run; 130: interrupted.
    """
    try:
        return _main(presets, summarise, list(sys.argv[1:] if args is None else args), search, expand)
    except KeyboardInterrupt:  # a second one, or one before any trial: nothing is tidied up any more
        print("\ninterrupted: what had ended is kept, and the same command goes on with the rest", file=sys.stderr)
        return 130


def _main(
    presets: Mapping[str, SweepOptions],
    summarise: "Summary",
    args: list[str],
    search: "Search | None",
    expand: Callable[[Any], list[TrialConfig]],
) -> int:
    try:
        options = read(presets, args)
        configs = expand(options)
        if options.execution.dry_run:
            return print_trials(options, configs)
        from raybd.command_line.runner import sweep  # MLflow takes a second to import, and a list needs none

        return sweep(options, configs, summarise, search)
    except InputError as error:
        print("\n".join(f"error: {problem}" for problem in error.problems), file=sys.stderr)
        return 2
