"""Processes of a gloo group for tests, and the work that they do, which they import from here."""

import copy
import math
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raybd.training import Checkpoint, Ranks, TrainConfig, fit
from raybd.training.data_parallel import lost_ranks
from raybd.trials.config import TrialConfig
from raybd.trials.run import follow_trial, run_trial
from raybd.types import Data, Images
from tests.conftest import made_images
from tests.processes import context

State = dict[str, Tensor]


def on_ranks(folder: Path, size: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """What `work(*args)` returns on each rank of a new group; raises what one of them raises."""
    store = str(folder / f"store-{os.urandom(4).hex()}")
    futures = [_pool().submit(_join, store, rank, size, work, args) for rank in range(size)]
    return [future.result(timeout=120) for future in futures]


@cache
def _pool() -> ProcessPoolExecutor:
    """Three processes for all tests."""
    return ProcessPoolExecutor(3, mp_context=context())


def _join(store: str, rank: int, size: int, work: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    torch.set_num_threads(1)
    with group(store, rank, size):
        return work(*args)


@contextmanager
def group(store: str, rank: int, size: int) -> Iterator[None]:
    """Membership of a gloo group that meets in the file `store`."""
    meeting = dist.FileStore(store, size)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=meeting, rank=rank, world_size=size)
    try:
        yield
    finally:
        dist.destroy_process_group()


class Plain(nn.Module):
    """A small network without batch norm, which keeps what it is trained with and what it draws."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(384, 4))
        self.batches: list[Tensor] = []
        self.drawn: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(x.detach().clone())
        self.drawn.append(torch.randn(len(x), 5))
        out: Tensor = self.layers(x)
        return out


def normed() -> nn.Module:
    """A small network with batch norm, of which no part draws."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(384, 4)
    )


def trained(
    make: Callable[[], nn.Module], images: Images, train_config: TrainConfig, file: Path | None = None, stop: int = 0
) -> tuple[list[float], State]:
    """Losses and last state of a training of `make()`, resumed from and kept in `file`, cut off in epoch `stop`."""
    model, own = make(), Checkpoint(file, every=0.0) if file else None
    checkpoint = Ranks.of(train_config.workers).checkpoint(own)
    losses = []
    for epoch in fit(model, images, train_config, 1, checkpoint):
        losses.append(epoch.loss)
        if epoch.number == stop:
            break
    return losses, {name: value.clone() for name, value in model.state_dict().items()}


def noted(images: Images, train_config: TrainConfig) -> tuple[list[Tensor], list[Tensor]]:
    """The batches that a network is trained with on this rank, and what it draws."""
    model = Plain()
    list(fit(model, images, train_config, 1))
    return model.batches, model.drawn


def traced(config: TrialConfig, data: Data, shared: Path) -> dict[str, float]:
    """The metrics of a trial on rank 0; nothing on the others."""
    if Ranks.of(config.train.workers).primary:
        return run_trial(config, data, shared=shared).metrics
    follow_trial(config, data, shared)
    return {}


def told(values: list[int]) -> list[int]:
    """What rank 0 computes, on each rank; the others would raise."""
    ranks = Ranks.of(len(values))
    return ranks.from_primary(lambda: [values[ranks.rank]] if ranks.primary else 1 / 0)  # type: ignore[arg-type,return-value]


def killed_in_the_middle(train_config: TrainConfig) -> str:
    """What rank 0 is told when rank 1 is killed within an epoch."""
    model, rank = Plain(), dist.get_rank()
    if rank:
        model.layers.register_forward_hook(lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    try:
        list(fit(model, made_images(43), train_config, 1))
    except Exception as error:  # noqa: BLE001
        return f"{lost_ranks(error)} {error}"
    return "nothing"


def copied_and_trained_alone(train_config: TrainConfig) -> float:
    """The loss of a step that rank 0 takes with a copy of the network, between two epochs."""
    model = normed()
    for epoch in fit(model, made_images(43), train_config, 1):
        if epoch.number == 1 and dist.get_rank() == 0:
            alone = copy.deepcopy(model)
            loss: Tensor = alone(torch.rand(4, 1, 8, 8)).sum() + model(torch.rand(4, 1, 8, 8)).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return_value = float(loss.detach())
    return return_value if dist.get_rank() == 0 else 0.0


def report_of_rank(rank: int, store: str, size: int, train_config: TrainConfig, answers: Any) -> None:
    """Rank 0 answers what it is told when rank 1 is killed."""
    with group(store, rank, size):
        answers.put(killed_in_the_middle(train_config))
        if rank == 0:
            answers.close()
            answers.join_thread()
            os._exit(0)  # a group without its other rank cannot be left


def traced_all(configs: list[TrialConfig], data: Data, shared: Path) -> list[dict[str, float]]:
    """`traced`, one trial after another."""
    return [traced(config, data, shared) for config in configs]


def perceptron(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A network without batch norm."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 32), nn.ReLU(), nn.Linear(32, classes))


def frozen(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A network without a weight that training changes."""
    return perceptron(shape, classes).requires_grad_(False)
