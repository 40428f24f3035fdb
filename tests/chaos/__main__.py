"""python -m tests.chaos [FAULT ...]: the table of faults, and exit status 1 where a trial was lost, doubled or changed.

A few trials for each fault, 24 for the driver that is killed ten times; all are run again to their end, and their
numbers compared with those of a sweep that nobody disturbed. `--seed N` draws other moments.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.faults import FAULTS, kills
from tests.chaos.sweeps import Sweep, Verdict
from tests.chaos.workers import verdicts

LIMIT = 14 * 60  # seconds for all
MANY, FEW = 24, 4  # trials
HEADER = "| fault | survived | lost | doubled | changed | said what it should | seconds |\n" + "| --- " * 7 + "|"


def main() -> int:
    """Print the table; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"of {', '.join([*FAULTS, 'workers'])}; none: all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if unknown := set(options.faults) - {*FAULTS, "workers"}:
        parser.error(f"no fault {', '.join(unknown)}")
    wanted, end = options.faults or [*FAULTS, "workers"], time.monotonic() + LIMIT
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder, bad = Path(name), list[str]()
        undisturbed = Sweep(folder / "undisturbed", MANY if FAULTS.keys() & wanted else FEW)
        print(*undisturbed.finish(), HEADER, sep="\n", flush=True)
        for number, fault in enumerate(wanted):
            if time.monotonic() > end:
                print(f"| {fault} | not run: {LIMIT // 60} minutes are over |")
                bad.append(fault)
                continue
            start = time.monotonic()
            found = befallen(fault, folder / f"{number}", undisturbed, random.Random(options.seed + number))
            for row, one in found.items():
                print(one.line(row, time.monotonic() - start), flush=True)
                bad += [row] * (not one.good)
    print(f"\nwrong: {', '.join(bad)}" if bad else "\nnothing lost, doubled or changed")
    return int(bool(bad))


def befallen(fault: str, folder: Path, undisturbed: Sweep, rng: random.Random) -> dict[str, Verdict]:
    """The rows of one fault."""
    if fault == "workers":
        return verdicts(folder)
    sweep = Sweep(folder, MANY if FAULTS[fault] is kills else FEW)
    wrong = FAULTS[fault](sweep, rng)
    wrong += sweep.finish()
    numbers = undisturbed.numbers()
    own = {key: numbers[key] for key in sorted(numbers, key=undisturbed.order)[: sweep.trials]}
    return {fault: sweep.verdict(own, wrong)}


if __name__ == "__main__":
    sys.exit(main())
