"""Clean twins: the control of a trial is the same config without poison, trained once for all that need it."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from raybd.attacks import NoAttack
from raybd.config import TrialConfig
from raybd.defences import Scene
from raybd.training import Checkpoint, Epoch


def twin_of(config: TrialConfig) -> TrialConfig:
    """The config whose network is the clean twin of `config`: no attack, and nothing that only looks on."""
    train = replace(config.train, beta=1.0, beta_mode="sample")  # there is no poison to weigh
    return replace(config, attack=NoAttack(), poison_rate=0.0, metrics=(), train=train)


class Twins:
    """The clean twins of a sweep, in one folder: the losses of each, and its weights at the probes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def train(
        self, config: TrialConfig, fresh: Callable[[], Scene], probes: set[int], beat: Callable[[], None]
    ) -> "Twin":
        """The clean twin of `config`, trained in a `fresh` scene without poison where nobody has done so before.

        `beat` is called now and then while another process trains it.
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
                beat()
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
        model.load_state_dict(torch.load(self.path / f"{epoch}.pt", map_location=device, weights_only=True))
        return model.eval()

    def replay(self, model: nn.Module, probes: set[int], findings: dict[str, Tensor]) -> Iterator[Epoch]:
        """Its training once more, without the work: `model` has the right weights at the probes."""
        findings |= torch.load(self.path / "findings.pt", weights_only=True)
        for epoch in self.epochs():
            if epoch.last or epoch.number in probes:
                self.load(model, epoch.number)
            yield epoch

    def fill(self, config: TrialConfig, scene: Scene, probes: set[int]) -> None:
        """Train it, or go on where an earlier attempt stopped."""
        part = self.path / "epochs.part"
        lines = [json.loads(line) for line in part.read_text().splitlines()] if part.exists() else []
        checkpoint = Checkpoint(self.path / "checkpoint.pt")
        for epoch in config.defence.train(replace(scene, checkpoint=checkpoint)):
            lines = [line for line in lines if line["number"] < epoch.number] + [asdict(epoch)]
            if epoch.last or epoch.number in probes:
                torch.save(scene.model.state_dict(), self.path / f"{epoch.number}.pt")
            part.write_text("".join(json.dumps(line) + "\n" for line in lines))
            scene.beat()
        torch.save({name: found.cpu() for name, found in scene.findings.items()}, self.path / "findings.pt")
        done = self.path / f"epochs.{time.time_ns()}"
        done.write_text(json.dumps(lines))
        done.replace(self.path / "epochs.json")
        checkpoint.path.unlink(missing_ok=True)
        part.unlink()
