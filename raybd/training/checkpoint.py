"""Checkpoint: the state of a training on disk."""

import logging
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from raybd.utils.cache import load_tensors
from raybd.utils.files import write_atomically

log = logging.getLogger(__name__)


class Checkpoint:
    """The state of a training in one file, written at most every `every` seconds."""

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
        """Write `state`, unless the last one was written less than `every` seconds ago."""
        if time.monotonic() - self._saved < self.every:
            return
        self._saved = time.monotonic()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, partial(torch.save, state))
        except (OSError, RuntimeError) as error:  # PyTorch raises RuntimeError for a full disk; training goes on
            log.warning("the checkpoint %s cannot be written: %s", self.path, error)
