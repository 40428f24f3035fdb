"""The `raybd` command: runs sweeps, and reads, maps, uploads and reruns their trials."""

import os
import pkgutil
import runpy
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from raybd import __version__
from raybd.cli import analysis_commands
from raybd.command_line import inspect_command, model_command, store_commands
from raybd.command_line.audit_command import audit_data
from raybd.command_line.store_commands import RESULTS, Name
from raybd.command_line.tables import format_json
from raybd.command_line.ui import show_ui
from raybd.errors import InputError, dependency_warning
from raybd.plugins import unknown
from raybd.trials.records import SweepFolder
from raybd.utils.signals import leave_closed_pipe

Kind = Literal["attack", "defence", "metric", "data", "model", "proposer"]


def run_sweep(name: Name, options: Annotated[tuple[str, ...], tyro.conf.Positional] = ()) -> int:
    """Run a sweep: `raybd sweep NAME OPTIONS` is `python sweeps/NAME.py OPTIONS`.

    Args:
        name: attacks, boundary, defences, early_warning, ib, learning_curves, resist, smoothing or vibe.
        options: Those of the sweep; `raybd sweep NAME --help` lists them.
    """
    import sweeps

    scripts = [module.name for module in pkgutil.iter_modules(sweeps.__path__) if not module.name.startswith("_")]
    if found := unknown("sweep", [name], scripts):
        raise InputError(found)
    before = sys.argv
    sys.argv = [f"raybd sweep {name}", *options]
    try:
        runpy.run_module(f"sweeps.{name}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    finally:
        sys.argv = before
    return 0


def resist(options: Annotated[tuple[str, ...], tyro.conf.Positional] = ()) -> int:
    """Find how much poison a training of your own withstands: `raybd resist --help` lists the options.

    Args:
        options: Those of sweeps/resist.py.
    """
    return run_sweep("resist", options)


def upload_pending_trials(
    name: Name,
    tracking_uri: str | None = None,
    results: str = RESULTS,
) -> int:
    """Upload the trials that ended while the tracking store was away.

    Args:
        name: Name of the sweep.
        tracking_uri: MLflow tracking URI; none: MLFLOW_TRACKING_URI or MLflow's own default.
        results: Folder with the sweep's trials.
    """
    from raybd.tracking.store import Store
    from raybd.tracking.uploads import upload_pending

    if SweepFolder.find(results, name) is None:
        raise InputError(f"there is no sweep {name!r} in {Path(results).absolute()}")
    folder = SweepFolder.of(results, name)
    with folder.locked():
        print(f"{upload_pending(folder, Store.open(name, tracking_uri).address)} trials uploaded")
    return 0


def show_status(name: Name, tracking_uri: str | None = None, json: bool = False) -> int:
    """Say how a sweep stands: trials finished, failed, running and left, and whether its driver is alive.

    Args:
        name: Name of the sweep.
        tracking_uri: MLflow tracking URI; none: MLFLOW_TRACKING_URI or MLflow's own default.
        json: Print JSON.
    """
    from dataclasses import asdict

    from raybd.tracking.status import status

    found = status(name, tracking_uri)
    print(format_json(asdict(found) | {"left": found.left}) if json else found)
    return 0


def rerun_trial(
    run_id: Name,
    tracking_uri: str | None = None,
    data_root: str | None = os.environ.get("RAYBD_DATA"),
    threads: int = 1,
) -> int:
    """Run a trial again from its logged settings, on the CPU; exit status 1 if a number differs.

    Args:
        run_id: MLflow's id of the trial's run.
        tracking_uri: MLflow tracking URI; none: MLFLOW_TRACKING_URI or MLflow's own default.
        data_root: Folder with the data sets.
        threads: CPU threads, as many as the trial had.
    """
    from raybd.tracking import load_record
    from raybd.trials.rerun import rerun

    found = rerun(load_record(run_id, tracking_uri), data_root, threads)
    print(found)
    return 1 if found.different else 0


def check_method(method: Name, kind: Kind | None = None) -> int:
    """Try a method, of your own or of raybd, as the tests of raybd try theirs; exit status 1 if a check fails.

    Args:
        method: module:Class (module:function for a network), or a name of raybd or of an installed package, with
            settings as on the command line of a sweep: my.attacks:Stripe:width=3.
        kind: What it is, where its name is that of several.
    """
    from raybd.command_line.check import Line, check, kind_of

    found = kind and {"data": "data set"}.get(kind, kind)
    try:
        found = found or kind_of(method)
        lines = check(found, method)
    except InputError as error:
        lines = iter([Line("loads", False, "; ".join(error.problems))])
    print(f"{found or 'method'} {method}")
    failed = count = 0
    for line in lines:
        print(line, flush=True)
        failed, count = failed + (not line.passed), count + 1
    print(f"{failed} of {count} checks failed" if failed else f"all {count} checks passed")
    return int(failed > 0)


def _with_store(command: Callable[..., int]) -> Callable[..., int]:
    """`command` under the settings with which raybd reaches a tracking store."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> int:
        from raybd.tracking.client import client_settings  # MLflow takes a second to import, and --help needs none

        with client_settings():
            return command(*args, **kwargs)

    return run


COMMANDS: dict[str, Callable[..., int]] = {
    "sweep": run_sweep,
    "resist": resist,
    "send": _with_store(upload_pending_trials),
    "map": _with_store(analysis_commands.query_map),
    "runs": _with_store(analysis_commands.list_runs),
    "status": _with_store(show_status),
    "report": _with_store(analysis_commands.write_sweep_report),
    "rerun": _with_store(rerun_trial),
    "model": _with_store(model_command.write_model),
    "inspect": inspect_command.inspect_network,
    "audit": audit_data,
    "check": check_method,
    "ui": show_ui,
    "list": _with_store(store_commands.list_sweeps),
    "rm": _with_store(store_commands.remove_sweep),
    "mv": _with_store(store_commands.move_sweep),
    "export": _with_store(store_commands.export_sweep),
    "table": _with_store(analysis_commands.write_table),
    "signal": _with_store(analysis_commands.show_signal),
}


def main(args: Sequence[str] | None = None) -> int:
    """Run the command that `args` (default: the command line) name; the exit status."""
    given = list(sys.argv[1:] if args is None else args)
    if given == ["--version"]:
        print(f"raybd {__version__}")
        return 0
    try:
        if given[:1] == ["sweep"] and given[1:] and not given[1].startswith("-"):
            return run_sweep(given[1], tuple(given[2:]))  # not through tyro, for which the options are the sweep's own
        if given[:1] == ["resist"]:
            return resist(tuple(given[1:]))
        about = "Sweeps of backdoor learning and what became of them. `raybd --version` prints the version."
        status: int = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="raybd", description=about, args=given)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        return leave_closed_pipe()
    except InputError as error:
        print("\n".join(f"error: {problem}" for problem in error.problems), file=sys.stderr)
    except Warning as warning:
        print(f"error: {dependency_warning(warning)}", file=sys.stderr)
    return 2
