"""Entry point of sweep scripts: parses options, expands them into trials, lists or runs these."""

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raybd.command_line import grid
from raybd.command_line.dry_run import Upcoming, print_trials
from raybd.command_line.options import SweepOptions, parse_options
from raybd.command_line.own_methods import warn_of_refused
from raybd.errors import InputError, LostRayError, dependency_warning
from raybd.trials.config import TrialConfig
from raybd.utils.signals import SignalError, first_signal, leave_closed_pipe, raise_signal

if TYPE_CHECKING:
    from raybd.command_line.runner import Search, Summary


def main(
    presets: Mapping[str, SweepOptions],
    summarise: "Summary",
    args: Sequence[str] | None = None,
    search: "Search | None" = None,
    expand: Callable[[Any], list[TrialConfig]] = grid.expand,
    preview: Callable[[Any], Sequence[Upcoming]] = lambda options: (),
    notes: Callable[[Any], Sequence[str]] = lambda options: (),
) -> int:
    """Run the sweep with the options `args` (default: the command line); the exit status.

    `expand` turns the options into trials. `search`, if given, runs first and adds trials to the sweep;
    `preview` tells a dry run which, and `notes` what else it shall say.
    0: every trial has finished; 1: some have not; 2: the options cannot be run; 130: interrupted; 143 or 129: ended by
    SIGTERM or SIGHUP.
    """
    try:
        with first_signal(raise_signal):
            return _main(
                presets, summarise, list(sys.argv[1:] if args is None else args), search, expand, preview, notes
            )
    except KeyboardInterrupt as error:  # a second one, or outside trials: no summary
        print("\ninterrupted: trials that have ended are kept; run the same command again to resume", file=sys.stderr)
        return 128 + (error.number if isinstance(error, SignalError) else signal.SIGINT)
    except LostRayError as error:  # in a search; a sweep says so in its summary
        print(
            f"\nerror: {error}; trials that have ended are kept; run the same command again to resume", file=sys.stderr
        )
        return 1


def _dry_run(
    options: SweepOptions, configs: list[TrialConfig], upcoming: Sequence[Upcoming], notes: Sequence[str]
) -> int:
    try:
        status = print_trials(options, configs, upcoming, notes)
        sys.stdout.flush()
    except BrokenPipeError:
        return leave_closed_pipe()
    return status


def _main(
    presets: Mapping[str, SweepOptions],
    summarise: "Summary",
    args: list[str],
    search: "Search | None",
    expand: Callable[[Any], list[TrialConfig]],
    preview: Callable[[Any], Sequence[Upcoming]],
    notes: Callable[[Any], Sequence[str]],
) -> int:
    try:
        options = parse_options(presets, args)
        configs = expand(options)
        warn_of_refused()
        if options.execution.dry_run:
            return _dry_run(options, configs, preview(options), notes(options))
        from raybd.command_line.runner import sweep  # imported here: MLflow takes a second, and a dry run needs none

        return sweep(options, configs, summarise, search)
    except InputError as error:
        print("\n".join(f"error: {problem}" for problem in error.problems), file=sys.stderr)
    except Warning as warning:
        print(f"error: {dependency_warning(warning)}", file=sys.stderr)
    return 2
