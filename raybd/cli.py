"""The `raybd` command."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from raybd.errors import InputError
from raybd.records import SweepFolder
from raybd.tracking import Store, send_all


def send_waiting(
    name: Annotated[str, tyro.conf.Positional],
    tracking_uri: str | None = None,
    results: str = os.environ.get("RAYBD_RESULTS", "results"),
) -> int:
    """Send trials that ended while the tracking store was away.

    Args:
        name: Name of the sweep.
        tracking_uri: MLflow tracking URI; none: MLFLOW_TRACKING_URI or MLflow's own default.
        results: Folder with the sweep's trials.
    """
    if not (Path(results).expanduser() / name).is_dir():
        raise InputError(f"there is no sweep {name!r} in {Path(results).absolute()}")
    folder = SweepFolder.of(results, name)
    with folder.locked():
        print(f"{send_all(folder, Store.open(name, tracking_uri).address)} trials sent")
    return 0


def main(args: Sequence[str] | None = None) -> int:
    """Run the command that `args` (default: the command line) name; the exit status."""
    try:
        return tyro.extras.subcommand_cli_from_dict({"send": send_waiting}, prog="raybd", args=args)
    except InputError as error:
        print("\n".join(f"error: {problem}" for problem in error.problems), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
