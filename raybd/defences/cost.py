"""What a defence costs, in numbers that can be compared: passes over the training set, seconds, clean images."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from raybd.models.activation_memory import is_counting


class Cost:
    """What a defence has cost so far: the numbers of its epochs."""

    def __init__(self, state: dict[str, Any] | None = None, extra: int = 0) -> None:
        """`state` is a checkpoint that holds what `state` returned; `extra`, clean images that were given beside."""
        self.passes = float(state["passes"]) if state else 0.0
        self._start = time.perf_counter() - (float(state["seconds"]) if state else 0.0)
        self.shared_seconds = 0.0  # seconds that others have spent on what this one used
        self.extra = extra

    def numbers(self, epoch: int) -> dict[str, float]:
        """Passes over the training set, forward and back, beyond the one an epoch of plain training; the seconds of
        all of it; clean images. A pass forward alone is a third of one."""
        beyond = self.passes - epoch
        return {"defence/passes": beyond, "defence/extra_images": float(self.extra)} | self._seconds("defence/")

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"passes": self.passes} | self._seconds()

    def _seconds(self, prefix: str = "") -> dict[str, float]:
        return {f"{prefix}seconds": time.perf_counter() - self._start + self.shared_seconds}


@contextmanager
def counted(model: nn.Module) -> Iterator[list[float]]:
    """Inside, the list's only entry is how many images have gone through `model` or copies of it, forward and back.

    Forward alone, without gradients, an image counts a third, as in the costs of defences that train.
    """
    passed = [0.0]

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if is_counting():  # a pass that asks for memory
            return
        passed[0] += len(inputs[0]) * (1 if torch.is_grad_enabled() else 1 / 3)

    hook = model.register_forward_pre_hook(count)
    try:
        yield passed
    finally:
        hook.remove()
