"""Clean twins: the control of a trial is the same config without poison, trained once for all that need it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from raybd.attacks import NoAttack
from raybd.defences import TrainingContext
from raybd.training import Checkpoint, Epoch, load_tensors
from raybd.trials.config import TrialConfig


def twin_of(config: TrialConfig) -> TrialConfig:
    """The config whose network is the clean twin of `config`: no attack, and nothing that only looks on."""
    train = replace(config.train, beta=1.0, beta_mode="sample")  # there is no poison to weigh
    return replace(config, attack=NoAttack(), poison_rate=0.0, metrics=(), train=train)


class Twins:
    """The clean twins of a sweep, in one folder: the losses of each, and its weights at the probes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def train(
        self, config: TrialConfig, fresh: Callable[[], TrainingContext], probes: set[int], heartbeat: Callable[[], None]
    ) -> "Twin":
        """The clean twin of `config`, trained in a `fresh` scene without poison where nobody has done so before.

        `heartbeat` is called now and then while another process trains it.
        """
        twin = Twin(self.folder / twin_of(config).key)
        twin.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(twin.path / ".lock")
        while not twin.done:
            try:
                with lock.acquire(timeout=1.0):
                    if not twin.done:
                        twin.fill(config, fresh(), probes)
            except Timeout:
                heartbeat()
        return twin


class Twin:
    """One clean twin on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def done(self) -> bool:
        """Whether its training has ended."""
        return (self.path / "epochs.json").exists()

    def epochs(self) -> list[Epoch]:
        """Its training, epoch by epoch."""
        return [Epoch(**line) for line in json.loads((self.path / "epochs.json").read_text())]

    def load(self, model: nn.Module, epoch: int) -> nn.Module:
        """`model` with the weights after `epoch`, which must be a probe."""
        device = next(model.parameters()).device
        model.load_state_dict(load_tensors(self.path / f"{epoch}.pt", device))
        return model.eval()

    def replay(self, model: nn.Module, probes: set[int], findings: dict[str, Tensor]) -> Iterator[Epoch]:
        """Its training once more, without the work: `model` has the right weights at the probes."""
        findings |= load_tensors(self.path / "findings.pt")
        for epoch in self.epochs():
            if epoch.last or epoch.number in probes:
                self.load(model, epoch.number)
            yield epoch

    def fill(self, config: TrialConfig, training: TrainingContext, probes: set[int]) -> None:
        """Train it, or go on where an earlier attempt stopped."""
        part = self.path / "epochs.part"
        lines = [json.loads(line) for line in part.read_text().splitlines()] if part.exists() else []
        checkpoint = Checkpoint(self.path / "checkpoint.pt")
        for epoch in config.defence.train(replace(training, checkpoint=checkpoint)):
            lines = [line for line in lines if line["number"] < epoch.number] + [asdict(epoch)]
            if epoch.last or epoch.number in probes:
                torch.save(training.model.state_dict(), self.path / f"{epoch.number}.pt")
            _replace(part, "".join(json.dumps(line) + "\n" for line in lines))
            training.heartbeat()
        torch.save({name: found.cpu() for name, found in training.findings.items()}, self.path / "findings.pt")
        _replace(self.path / "epochs.json", json.dumps(lines))
        checkpoint.path.unlink(missing_ok=True)
        part.unlink()


def _replace(path: Path, text: str) -> None:
    """Write `text` whole or not at all: a process that is killed in the middle leaves what was there."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)
