"""A sweep in a folder, as a process that faults befall; and what became of its trials."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from raybd.tracking import load_runs

ROOT = Path(__file__).parent.parent.parent
SWEEP = (
    "--epochs 6 --weight-decays 5e-4 --widths 1.0 --poison-rates 0.1 --attacks badnets --noise 0 "
    "--metrics smoothness --model tests.misbehaving:slow"
).split()
FIRST = 90.0  # seconds until a trial runs, on a busy machine
LAST = 200.0  # seconds for a sweep that nobody disturbs


@dataclass(frozen=True)
class Verdict:
    """The keys of trials by what became of them, and whether the command said what it should."""

    survived: int
    lost: list[str]
    doubled: list[str]
    changed: list[str]  # their numbers are not those of the undisturbed sweep, to the last bit
    wrong: list[str] = field(default_factory=list)  # what the driver should have said or returned

    @property
    def good(self) -> bool:
        """Whether nothing was lost, doubled, changed or wrong."""
        return not (self.lost or self.doubled or self.changed or self.wrong)

    def line(self, fault: str, seconds: float) -> str:
        """A row of the table."""
        numbers = [self.survived, len(self.lost), len(self.doubled), len(self.changed)]
        said = "; ".join(self.wrong) or "yes"
        return f"| {fault} | {' | '.join(map(str, numbers))} | {said} | {seconds:.0f} |"


class Sweep:
    """The sweep of `trials` trials in `folder`; no wait for it is longer than until `end`, by the monotonic clock."""

    def __init__(self, folder: Path, trials: int, end: float) -> None:
        self.folder, self.trials, self.end = folder, trials, end
        self.store = folder / "mlflow.db"
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, *options: str) -> subprocess.Popen[str]:
        """The driver, in a process group of its own."""
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        with (self.folder / "said.txt").open("w") as said:
            command = [sys.executable, str(ROOT / "sweeps" / "ib.py"), *SWEEP, "--seeds", str(self.trials), *options]
            return subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=said, stderr=said, text=True, start_new_session=True
            )

    @property
    def said(self) -> str:
        """What the last driver has said."""
        return (self.folder / "said.txt").read_text()

    def wait(self, driver: subprocess.Popen[str], seconds: float) -> int | None:
        """The exit status of the driver; None where it had not ended in time, and was killed."""
        try:
            return driver.wait(max(1.0, min(seconds, self.end - time.monotonic())))
        except subprocess.TimeoutExpired:
            os.killpg(driver.pid, signal.SIGKILL)
            return None

    def wait_for_trials(self, driver: subprocess.Popen[str]) -> None:
        """Wait until a trial has written an epoch."""
        end = min(time.monotonic() + FIRST, self.end)
        while driver.poll() is None and time.monotonic() < end:
            if any(path.stat().st_size for path in self.folder.glob("results/ib/trials/*/history.jsonl")):
                return
            time.sleep(0.1)

    def finish(self) -> list[str]:
        """Run the command again, undisturbed, until it has ended; what was wrong with that."""
        status = self.wait(self.start("--inline"), LAST)
        if status is None:
            return ["the rerun took too long"]
        return [f"the rerun ended with {status}"] * bool(status)

    def numbers(self) -> dict[str, dict[str, float]]:
        """The final metrics of each finished trial, without times."""
        records = [json.loads(path.read_text()) for path in self.folder.glob("results/ib/trials/*/trial.json")]
        return {
            record["key"]: {name: value for name, value in record["metrics"].items() if "seconds" not in name}
            for record in records
            if record["status"] == "FINISHED"
        }

    def order(self, key: str) -> int:
        """The seed of a trial, by which they are counted."""
        record = json.loads((self.folder / "results/ib/trials" / key / "trial.json").read_text())
        return int(record["config"]["seed"])

    def verdict(self, undisturbed: dict[str, dict[str, float]], wrong: list[str]) -> Verdict:
        """What became of the trials, by the store and by the disk."""
        runs = load_runs("ib", f"sqlite:///{self.store}")
        finished = runs[runs["status"] == "FINISHED"]["tags.raybd.key"].value_counts().to_dict()
        if "RUNNING" in set(runs["status"]):
            wrong = [*wrong, "a run stays open"]
        own = self.numbers()
        return Verdict(
            survived=sum(finished.get(key, 0) == 1 for key in undisturbed),
            lost=[key for key in undisturbed if not finished.get(key)],
            doubled=[key for key, number in finished.items() if number > 1],
            changed=[key for key in own if own[key] != undisturbed.get(key)],
            wrong=wrong,
        )
