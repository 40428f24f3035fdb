"""Data-parallel training: several processes (ranks of torch.distributed), each with its share of every batch.

All ranks run the same training in step, on the same images, with DistributedDataParallel around the network. Rank 0,
the primary, alone measures, repairs and writes. The process group must exist: raybd/execution/data_parallel.py has
Ray Train make it.

A step has the images of a step of one process, and the mean gradient of the whole batch. Batch norm sees each rank's
share alone, as DistributedDataParallel has it, unless it is synchronised.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raybd.errors import InputError
from raybd.training.checkpoint import Checkpoint
from raybd.training.weighting import LEAST

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """The processes that train one network together, and which of them this one is; by default it is alone."""

    rank: int = 0
    size: int = 1
    sync_batch_norm: bool = False

    @classmethod
    def of(cls, workers: int, sync_batch_norm: bool = False) -> "Ranks":
        """The ranks of a training by `workers` processes.

        Raises:
            InputError: this process is in no process group of that size.
        """
        if workers == 1:
            return cls()
        size = dist.get_world_size() if dist.is_initialized() else 1
        if size != workers:
            raise InputError(
                f"a training by {workers} workers runs on Ray, in a process group of {workers}, not {size}"
            )
        return cls(dist.get_rank(), size, sync_batch_norm)

    @property
    def primary(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @property
    def stream(self) -> tuple[int, ...]:
        """Suffix of the names of this rank's own random streams, where ranks must draw different numbers."""
        return (self.rank,) if self.rank else ()

    def decide(self, answer: bool = False) -> bool:
        """Rank 0's `answer`, on every rank."""
        return self.from_primary(lambda: answer)

    def from_primary(self, compute: Callable[[], T]) -> T:
        """What `compute` returns on rank 0, on every rank: the others wait for it."""
        if self.size == 1:
            return compute()
        box: list[Any] = [compute() if self.primary else None]
        dist.broadcast_object_list(box, src=0)
        found: T = box[0]
        return found

    def sum(self, x: Tensor) -> Tensor:
        """The sum of `x` over the ranks."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def checkpoint(self, own: Checkpoint | None) -> Checkpoint | None:
        """`own` of rank 0, which keeps it and hands every rank what it loads."""
        return own if self.size == 1 else PrimaryCheckpoint(own, self)

    def wrap(self, model: nn.Module) -> nn.Module:
        """What a step calls: `model` itself in one process, else DistributedDataParallel over its weights.

        Raises:
            InputError: batch norm cannot be synchronised where `model` lies.
        """
        if self.size == 1:
            return model
        if self.sync_batch_norm and next(model.parameters()).device.type == "cpu":
            raise InputError("sync_batch_norm needs GPUs: PyTorch's SyncBatchNorm refuses a CPU")
        return DistributedDataParallel(_synchronised(model) if self.sync_batch_norm else model)

    def share(self, n: int) -> tuple[slice, float]:
        """This rank's part of a batch of `n` images, and what its loss counts for.

        Parts are neighbours in the batch and differ by one image at most. Where `n` is too small for all ranks, the
        last ones repeat the first part, which batch norm needs, and count for nothing.
        """
        parts = self.size if self.sync_batch_norm else max(1, min(self.size, n // LEAST))
        part = self.rank if self.rank < parts else 0
        return slice(n * part // parts, n * (part + 1) // parts), float(self.rank < parts)

    def backward(self, loss: Tensor) -> None:
        """Backpropagate this rank's part of a batch's `loss`: DistributedDataParallel means the gradients of all."""
        (loss if self.size == 1 else loss * self.size).backward()


class PrimaryCheckpoint(Checkpoint):
    """A checkpoint that rank 0 alone keeps, and every rank loads."""

    def __init__(self, own: Checkpoint | None, ranks: Ranks) -> None:
        self._own, self._ranks = own, ranks

    def load(self) -> dict[str, Any] | None:
        """The state that rank 0 has saved last."""
        return self._ranks.from_primary(lambda: self._own.load() if self._own else None)

    def save(self, state: dict[str, Any]) -> None:
        """Keep `state` on rank 0."""
        if self._own is not None and self._ranks.primary:
            self._own.save(state)


def _synchronised(model: nn.Module) -> nn.Module:
    """A copy of `model` with SyncBatchNorm for batch norm, which shares its weights and statistics.

    `model` itself stays as it is, so that rank 0 can copy, measure and repair it without the others.
    """
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    copied: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model, shared))
    return copied


def lost_ranks(error: BaseException) -> bool:
    """Whether `error` only reports a lost connection to another rank, which has the actual error."""
    if isinstance(error, torch.OutOfMemoryError) or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()
