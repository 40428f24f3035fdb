"""Checkpoint: the state of a training on disk."""

import logging
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from raybd.errors import EndRequestedError
from raybd.utils.cache import load_tensors
from raybd.utils.ending import end_requested
from raybd.utils.files import write_atomically

log = logging.getLogger(__name__)
EVERY = 60.0  # seconds between two checkpoints
FIRST = 10.0  # seconds until the first one, at most: where attempts are cut short, each has to get further
SHARE = 0.05  # of all epochs, after which the first one is due even sooner ...
LEAST = 1.0  # ... but in seconds not before this: shorter work is done again at less cost than it is kept


class Checkpoint:
    """The state of a training in one file: written first after FIRST seconds, or SHARE of its `epochs` if that is
    sooner, then every `every` seconds; and at once where the training is asked to end."""

    def __init__(self, path: Path, every: float = EVERY, epochs: int = 0) -> None:
        """`epochs` of the whole training; 0: unknown."""
        self.path, self.every, self.epochs = path, every, epochs
        self._begun, self._saved, self._resumed = time.monotonic(), -1.0, 0  # `_resumed`: the epoch loaded

    def load(self) -> dict[str, Any] | None:
        """The state last saved; None where there is none that can be read."""
        if not self.path.exists():
            return None
        try:
            state = dict(load_tensors(self.path))
        except Exception as error:  # noqa: BLE001 - a broken file raises whatever its bytes suggest
            log.warning("the checkpoint %s cannot be read (%s): training starts anew", self.path, error)
            return None
        self._resumed = state.get("epoch", 0)
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Write `state`, of which "epoch" is the number of epochs done, if it is time to.

        Raises:
            EndRequestedError: the training is asked to end, and `state` is written.
        """
        asked = end_requested()
        if asked or self._due(state.get("epoch", 0)):
            self._write(state)
        if asked:
            raise EndRequestedError

    def _due(self, epoch: int) -> bool:
        now = time.monotonic()
        if self._saved >= 0:
            return now - self._saved >= self.every
        passed = now - self._begun
        share = (epoch - self._resumed) / self.epochs if self.epochs else 0.0
        return passed >= min(FIRST, self.every) or (passed >= LEAST and share >= SHARE)

    def _write(self, state: dict[str, Any]) -> None:
        self._saved = time.monotonic()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, partial(torch.save, state))
        except (OSError, RuntimeError) as error:  # PyTorch raises RuntimeError for a full disk; training goes on
            log.warning("the checkpoint %s cannot be written: %s", self.path, error)
