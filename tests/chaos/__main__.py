"""python -m tests.chaos [FAULT ...]: the table of faults, and exit status 1 where a trial was lost, doubled or changed.

A few trials for each fault, 24 for the driver that is killed ten times; all are run again to their end, and their
numbers compared with those of a sweep that nobody disturbed. Two faults at once; none is begun that cannot end in
time. `--seed N` draws other moments.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import redirect_stdout
from pathlib import Path

from raybd.utils.signals import ENDING
from tests.chaos.faults import FAULTS, kills
from tests.chaos.sweeps import Sweep, Verdict
from tests.chaos.workers import verdicts

LIMIT = 14 * 60  # seconds for all
MANY, FEW = 24, 4  # trials
AT_ONCE = 2  # faults: their sweeps wait more than they compute
HEADER = "| fault | survived | lost | doubled | changed | said what it should | seconds |\n" + "| --- " * 7 + "|"


def main() -> int:
    """Print the table; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"of {', '.join([*FAULTS, 'workers'])}; none: all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if unknown := set(options.faults) - {*FAULTS, "workers"}:
        parser.error(f"no fault {', '.join(unknown)}")
    for number in ENDING:  # a shell lets what it starts with & ignore Ctrl-C, and drivers would inherit that
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    wanted, end, bad = options.faults or ["workers", *FAULTS], time.monotonic() + LIMIT, list[str]()
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        print(HEADER, flush=True)
        for row, one, seconds in rows(wanted, Path(name), options.seed, end):
            print(one.line(row, seconds) if one else f"| {row} | not run: {LIMIT // 60} minutes are over |", flush=True)
            bad += [row] * (one is None or not one.good)
    print(f"\nwrong: {', '.join(bad)}" if bad else "\nnothing lost, doubled or changed")
    return int(bool(bad))


def rows(wanted: list[str], folder: Path, seed: int, end: float) -> Iterator[tuple[str, Verdict | None, float]]:
    """Each row, its verdict (None: there was no time for it) and its seconds; what befalls workers first, alone."""
    start = time.monotonic()
    if "workers" in wanted:
        with redirect_stdout(sys.stderr):  # what Ray and the sweep say is no part of the table
            found = verdicts(folder / "workers")
        yield from ((row, one, time.monotonic() - start) for row, one in found.items())
    faults = [fault for fault in wanted if fault != "workers"]
    if not faults:
        return
    undisturbed = Sweep(folder / "undisturbed", MANY if any(FAULTS[fault] is kills for fault in faults) else FEW, end)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        whole = pool.submit(undisturbed.finish)
        befalling = [
            pool.submit(
                befallen, fault, Sweep(folder / f"{number}", trials(fault), end), undisturbed, whole, seed + number
            )
            for number, fault in enumerate(faults)
        ]
        yield from (done.result() for done in as_completed(befalling))


def trials(fault: str) -> int:
    """How many of them the fault befalls."""
    return MANY if FAULTS[fault] is kills else FEW


def befallen(
    fault: str, sweep: Sweep, undisturbed: Sweep, whole: Future[list[str]], seed: int
) -> tuple[str, Verdict | None, float]:
    """The row of one fault, compared with the `undisturbed` sweep as soon as that is `whole`."""
    start = time.monotonic()
    if sweep.end - start < (300 if FAULTS[fault] is kills else 120):  # what it takes on a busy machine
        return fault, None, 0.0
    wrong = FAULTS[fault](sweep, random.Random(seed))
    wrong += [*sweep.finish(), *whole.result()]
    seconds, numbers = time.monotonic() - start, undisturbed.numbers()
    own = {key: numbers[key] for key in sorted(numbers, key=undisturbed.order)[: sweep.trials]}
    return fault, sweep.verdict(own, wrong), seconds


if __name__ == "__main__":
    sys.exit(main())
