"""The state of a training on disk: one file, replaced whole."""

import logging
import time
import zipfile
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)


class Checkpoint:
    """Where a training's state is kept while it runs: one file, replaced whole, at most every `every` seconds."""

    def __init__(self, path: Path, every: float = 60.0) -> None:
        self.path, self.every, self._saved = path, every, time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The state last saved; None where there is none that can be read."""
        if not self.path.exists():
            return None
        try:
            return dict(load_tensors(self.path))
        except Exception as error:  # noqa: BLE001 - a broken file raises whatever its bytes suggest
            log.warning("the checkpoint %s cannot be read (%s): training starts anew", self.path, error)
            return None

    def save(self, state: dict[str, Any]) -> None:
        """Keep `state` if the last one is old enough."""
        if time.monotonic() - self._saved < self.every:
            return
        self._saved, part = time.monotonic(), self.path.with_suffix(".part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(state, part)
            part.replace(self.path)
        except (OSError, RuntimeError) as error:  # PyTorch says a full disk its own way; the training can do without
            log.warning("the checkpoint %s cannot be written: %s", self.path, error)
            part.unlink(missing_ok=True)


def load_tensors(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """What `torch.save` wrote to `path`, if every byte is as it was written; nothing but tensors and plain values.

    Raises:
        Exception: whatever a broken file suggests.
    """
    with zipfile.ZipFile(path) as file:  # PyTorch itself does not look at the checksums
        if (broken := file.testzip()) is not None:
            raise ValueError(f"{path} is damaged: its part {broken} has another checksum")
    found: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return found
