"""Networks of a user's own that do what trials must survive; named to a sweep as tests.misbehaving:FUNCTION."""

import ctypes
import os
import signal
import time
import uuid
from pathlib import Path
from typing import Any

from torch import Tensor, distributed, nn


class Net(nn.Module):
    """A small network that does `act` at a training step, `act` being told how many it has made."""

    def __init__(self, shape: tuple[int, int, int], classes: int, act: Any) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))
        self.act, self.steps = act, 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
            self.act(self.steps)
        out: Tensor = self.body(x)
        return out


def _first_time(what: str) -> bool:
    """True once for `what` in the folder that the test names in RAYBD_TEST_FLAGS."""
    flag = Path(os.environ["RAYBD_TEST_FLAGS"]) / what
    if flag.exists():
        return False
    flag.touch()
    return True


def _hang() -> None:
    """Hang once the trial has begun, and leave a file that says so in the folder RAYBD_TEST_FLAGS.

    Networks are built and tried when a sweep is planned, too; the test leaves the file `begun` afterwards.
    """
    folder = Path(os.environ["RAYBD_TEST_FLAGS"])
    if (folder / "begun").exists():
        (folder / "hanging").touch()
        time.sleep(1000)


def healthy(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Net(shape, classes, lambda step: None)


def dies_once(shape: tuple[int, int, int], classes: int) -> nn.Module:
    def act(step: int) -> None:
        if step == 30 and _first_time("dies_once"):
            os.kill(os.getpid(), signal.SIGKILL)

    return Net(shape, classes, act)


def dies(shape: tuple[int, int, int], classes: int) -> nn.Module:
    def act(step: int) -> None:
        if step == 30:
            os.kill(os.getpid(), signal.SIGKILL)

    return Net(shape, classes, act)


def raises(shape: tuple[int, int, int], classes: int) -> nn.Module:
    def act(step: int) -> None:
        if step == 30:
            raise RuntimeError("planted failure")

    return Net(shape, classes, act)


def raises_once(shape: tuple[int, int, int], classes: int) -> nn.Module:
    def act(step: int) -> None:
        if step == 30 and _first_time("raises_once"):
            raise RuntimeError("planted failure")

    return Net(shape, classes, act)


def signalled_once(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Sends its process the signal of the name RAYBD_TEST_SIGNAL, in the middle of an epoch."""

    def act(step: int) -> None:
        if step == 30 and _first_time("signalled"):
            os.kill(os.getpid(), getattr(signal, os.environ["RAYBD_TEST_SIGNAL"]))

    return Net(shape, classes, act)


def hangs(shape: tuple[int, int, int], classes: int) -> nn.Module:
    def act(step: int) -> None:
        if step == 30:
            _hang()

    return Net(shape, classes, act)


def hangs_once(shape: tuple[int, int, int], classes: int) -> nn.Module:
    def act(step: int) -> None:
        if step == 30 and _first_time("hangs_once"):
            time.sleep(1000)

    return Net(shape, classes, act)


def holds_the_lock_once(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """In foreign code that does not let Python go on."""

    def act(step: int) -> None:
        if step == 30 and _first_time("holds_the_lock_once"):
            while True:  # a signal ends a sleep
                ctypes.PyDLL(None).sleep(1000)

    return Net(shape, classes, act)


def stops_once(shape: tuple[int, int, int], classes: int) -> nn.Module:
    def act(step: int) -> None:
        if step == 30 and _first_time("stops_once"):
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(1000)

    return Net(shape, classes, act)


def terminated_twice(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Its process gets SIGTERM in two attempts, which are all that a trial has."""

    def act(step: int) -> None:
        if step == 30 and (_first_time("terminated") or _first_time("terminated again")):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1000)

    return Net(shape, classes, act)


def hangs_before_training(shape: tuple[int, int, int], classes: int) -> nn.Module:
    _hang()
    return healthy(shape, classes)


def hangs_at_a_measure(shape: tuple[int, int, int], classes: int) -> nn.Module:
    class Stuck(Net):
        def forward(self, x: Tensor) -> Tensor:
            if not self.training:
                _hang()
            return super().forward(x)

    return Stuck(shape, classes, lambda step: None)


def becomes_nan(shape: tuple[int, int, int], classes: int) -> nn.Module:
    net = Net(shape, classes, lambda step: None)
    weight = next(net.parameters())

    def act(step: int) -> None:
        if step == 30:
            weight.data.fill_(float("nan"))

    net.act = act
    return net


def hungry(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Takes memory until somebody ends it, or it has 10 GB."""
    kept: list[bytearray] = []

    def act(step: int) -> None:
        while step == 30 and len(kept) < 200:
            kept.append(bytearray(os.urandom(4096) * (50_000_000 // 4096)))

    return Net(shape, classes, act)


def by_ticket(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Trains only with a ticket: a file of the folder RAYBD_TEST_FLAGS, that it takes, or waits for."""

    def taken() -> bool:
        for ticket in Path(os.environ["RAYBD_TEST_FLAGS"]).glob("ticket*"):
            try:
                ticket.unlink()  # of several that try, one succeeds
                return True
            except FileNotFoundError:
                continue
        return False

    def act(step: int) -> None:
        while step == 1 and not taken():
            time.sleep(0.05)

    return Net(shape, classes, act)


def slow(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Net(shape, classes, lambda step: time.sleep(0.02))


def _on_rank_1(act: Any) -> Any:
    """`act` at a training step, but on rank 1 of a data-parallel training alone."""

    def on_rank(step: int) -> None:
        if distributed.is_initialized() and distributed.get_rank() == 1:
            act(step)

    return on_rank


def rank_dies_once(shape: tuple[int, int, int], classes: int) -> nn.Module:
    def act(step: int) -> None:
        if step == 50 and _first_time("rank_dies_once"):
            os.kill(os.getpid(), signal.SIGKILL)

    return Net(shape, classes, _on_rank_1(act))


def rank_dies(shape: tuple[int, int, int], classes: int) -> nn.Module:
    def act(step: int) -> None:
        if step == 30:
            _fault_begins()
            os.kill(os.getpid(), signal.SIGKILL)

    return Net(shape, classes, _on_rank_1(act))


def rank_raises(shape: tuple[int, int, int], classes: int) -> nn.Module:
    def act(step: int) -> None:
        if step == 30:
            _fault_begins()
            raise ValueError("planted failure of a rank")

    return Net(shape, classes, _on_rank_1(act))


def rank_stops(shape: tuple[int, int, int], classes: int) -> nn.Module:
    def act(step: int) -> None:
        if step == 30:
            _fault_begins()
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(1000)  # its watchdog lets it go on for its stacks

    return Net(shape, classes, _on_rank_1(act))


def rank_hangs(shape: tuple[int, int, int], classes: int) -> nn.Module:
    def act(step: int) -> None:
        if step == 30:
            _fault_begins()
            time.sleep(1000)

    return Net(shape, classes, _on_rank_1(act))


def diverges(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Its loss is no number on any rank, from the first step on."""

    class Nan(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * float("nan")

    return Nan(shape, classes, lambda step: None)


def waits_for_company(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Its first step waits until three others have begun, and notes when it trained and on which GPU."""

    import ray

    folder, name = Path(os.environ["RAYBD_TEST_FLAGS"]) / "company", uuid.uuid4().hex

    def act(step: int) -> None:
        [gpu] = ray.get_runtime_context().get_accelerator_ids()["GPU"]  # none where the plan tries the network
        folder.mkdir(exist_ok=True)
        with (folder / name).open("a") as file:
            file.write(f"{time.time()} {gpu}\n")
        deadline = time.monotonic() + 120
        while step == 1 and len(list(folder.iterdir())) < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.05)

    return Net(shape, classes, act)


def _fault_begins() -> None:
    (Path(os.environ["RAYBD_TEST_FLAGS"]) / "fault").write_text(str(time.time()))
