import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

# Before torch and Ray are imported anywhere: one thread, as in every trial, and workers that can import tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_ADDRESS", "local")  # a sweep of a test joins no Ray that somebody started here
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])

import pytest
import torch
from torch import nn

from raybd.contracts.promises import made_images as made_images  # for tests
from raybd.errors import InputError
from raybd.models import sketch_model
from raybd.models.base import Shape
from raybd.tracking import sqlite
from raybd.types import Data, Images


def pytest_configure() -> None:
    """Set back the signals that a shell's background jobs ignore, since tests send them."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with tests that start Ray come first: they take longest, and the other worker need not wait for them.

    The tests of a file stay together (`--dist loadfile`), since they share what they have trained.
    """
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)


@pytest.fixture(autouse=True)
def _no_ray_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """The next test starts its own, with its own environment."""
    yield
    if request.node.get_closest_marker("ray"):
        import ray

        ray.shutdown()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is trained or fetched once and kept, is kept for these tests only, and never taken from a person's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYBD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _stores_are_copies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A new store in a file is a copy of an empty one that MLflow has made: its tables take it one or two seconds."""
    make = sqlite.make_tables

    @cache
    def empty() -> Path:
        path = tmp_path_factory.mktemp("store") / "empty.db"
        make(path)
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite, "make_tables", lambda path: shutil.copyfile(empty(), path))
        yield


@pytest.fixture(scope="session")
def digits() -> Data:
    from raybd.data import load

    torch.set_num_threads(1)
    return load("digits")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Inside, torch computes in one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


Surrogates = Callable[[nn.Module], None]


def surrogates_of(module: str) -> Any:
    """A fixture that makes a network the surrogate of the attack in `module`, with an empty cache."""

    @pytest.fixture
    def surrogates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Surrogates:
        def use(model: nn.Module) -> None:
            monkeypatch.setenv("RAYBD_CACHE", str(tmp_path))
            monkeypatch.setattr(f"{module}.surrogate", lambda train, classes: model.eval())

        return use

    return surrogates


def steep_network(train: Images, classes: int) -> nn.Module:
    """A linear network with large weights, on the device of `train`: in the place of a surrogate that has to be
    trained."""
    layer = nn.Linear(train.x[0].numel(), classes)
    layer.weight.data = 3 * torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(0))
    layer.bias.data = -layer.weight.data.sum(1) / 2
    return nn.Sequential(nn.Flatten(), layer).to(train.y.device)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def check_model(
    name: str, shape: Shape, classes: int, width: float = 1.0, depth: int | None = None, noise: float = 0.0
) -> list[str]:
    """Every problem that `build_model` would raise, found without weights."""
    try:
        sketch_model(name, shape, classes, width=width, depth=depth, noise=noise)
    except InputError as error:
        return error.problems
    return []
