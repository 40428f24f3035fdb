"""The place that launches from: a checkout, a home with a key, and what a person would type there."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SLOWEST = 6  # times as slow as the machine of the seconds in docs/cluster.md a machine may be


class StageError(AssertionError):
    """A command did not do what it should; with the end of what it said."""


@dataclass(frozen=True)
class Laptop:
    """Types commands in the checkout, and keeps what they said in `log`."""

    folder: Path

    @property
    def checkout(self) -> Path:
        """The copy of the repository that it launches."""
        return self.folder / "raybd"

    @property
    def key(self) -> Path:
        """Lets it into the machines."""
        return self.folder / "home/.ssh/id_ed25519"

    @property
    def log(self) -> Path:
        """All that was typed and answered."""
        return self.folder / "log"

    @property
    def environment(self) -> dict[str, str]:
        """A login's, with the virtual environment of the tests active."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {"HOME": str(self.folder / "home"), "PATH": path, "LANG": "C.UTF-8", "RAY_USAGE_STATS_ENABLED": "0"}

    def types(self, command: str, status: int = 0, seconds: float = 120, **environment: str) -> str:
        """What `command` says, once it has ended with `status`.

        Raises:
            StageError: it ended otherwise, or not within SLOWEST times `seconds`.
        """
        try:
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=self.checkout,
                env=self.environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=SLOWEST * seconds,
                check=False,
            )
            said, ended = done.stdout.decode(errors="replace"), f"ended with {done.returncode}"
        except subprocess.TimeoutExpired as error:
            done, said = None, (error.stdout or b"").decode(errors="replace")
            ended = f"took over {SLOWEST * seconds:g} s"
        with self.log.open("a") as log:
            log.write(f"\n$ {command}\n{said}\n[{ended}]\n")
        if done is None or done.returncode != status:
            tail = "\n".join(said.splitlines()[-40:])
            raise StageError(f"$ {command}\n{tail}\n[{ended}, and not with {status}]")
        return said.replace("\r\n", "\n")

    def begins(self, command: str, output: Path) -> subprocess.Popen[bytes]:
        """`command` at work, in a session of its own, with what it says in `output`."""
        with output.open("wb") as file:
            return subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=self.checkout,
                env=self.environment | {"PYTHONUNBUFFERED": "1"},  # as a terminal would have it
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )


def prepare(folder: Path, head: str, workers: Sequence[str], user: str) -> Laptop:
    """A fresh laptop with a key and a copy of this checkout, in which cluster.yaml is filled in and nothing else."""
    laptop = Laptop(folder)
    laptop.key.parent.mkdir(parents=True, mode=0o700)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", laptop.key], check=True)
    shutil.copytree(ROOT, laptop.checkout, ignore=_left_out, symlinks=True)
    launcher = laptop.checkout / "cluster.yaml"
    rows = "\n".join(f"    - {worker}" for worker in workers)
    text = launcher.read_text().replace("HEAD_ADDRESS", head).replace("SSH_USER", user)
    launcher.write_text(text.replace("    - WORKER_ADDRESS", rows))
    return laptop


def _left_out(folder: str, names: list[str]) -> set[str]:
    """What a clone would not have."""
    caches = {name for name in names if name.endswith("_cache") or name == "__pycache__"}
    return caches | ({".venv", "results", "mlruns", "mlartifacts"} & set(names) if Path(folder) == ROOT else set())
