"""Networks and works that tell what each worker of a team did; peers import them from here."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raybd.training.team import Member, Team, batch_norm


def network() -> nn.Module:
    """A small one with batch norm, of which no part draws."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(384, 4)
    )


class Noting(nn.Module):
    """Keeps every batch that a worker trains with, and what it draws beside, in a file a step."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.head, self.folder, self.steps = nn.Linear(64, 4), folder, 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        drawn = torch.randn(len(x), 50)
        torch.save({"x": x, "drawn": drawn}, self.folder / f"{self.steps}.{rank()}.pt")
        out: Tensor = self.head(x.flatten(1))
        return out


class Acting(nn.Module):
    """Does something at step 3 or 4 where it is trained by a peer."""

    def __init__(self, act: str) -> None:
        super().__init__()
        self.head, self.act, self.steps, self.leader = nn.Linear(64, 4), act, 0, os.getpid()

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        if self.steps == 3 and os.getpid() != self.leader:
            if self.act == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.act == "raise":
                raise ValueError("planted failure")
            if self.act == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
        if self.act == "sleep" and self.steps == 4 and os.getpid() != self.leader:
            time.sleep(1000)  # far from any message that could fail
        out: Tensor = self.head(x.flatten(1))
        return out


def at_home(number: int, team: Team) -> float:
    """The sockets that this process listens on, all on 127.0.0.1; every worker looks before any goes on."""
    own = {str(file.readlink()) for file in Path("/proc/self/fd").iterdir() if file.is_socket()}
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    sockets = [line.split() for table in tables for line in table]
    heard = [one[1].split(":")[0] for one in sockets if one[3] == "0A" and f"socket:[{one[9]}]" in own]
    if set(heard) - {"0100007F"}:
        raise ValueError(f"listens on {heard}")
    return float(len(heard))


def rank() -> int:
    """This worker's, 0 where it is alone."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def normalise(folder: Path, norm: Any, x: Tensor, grad: Tensor, number: int, team: Team) -> float:
    """Work: this worker's share of x (n, ...) through `norm` and back; what comes of it, to a file of its own."""
    assert isinstance(team, Member)
    share = slice(len(x) * team.rank // team.size, len(x) * (team.rank + 1) // team.size)
    mine = x[share].clone().requires_grad_()
    y = batch_norm(norm, mine)
    y.backward(grad[share])  # type: ignore[no-untyped-call]
    if norm.affine:
        team.add_up(norm)
    found = {"y": y.detach(), "dx": mine.grad, **norm.state_dict()}
    found |= {f"d{name}": weight.grad for name, weight in norm.named_parameters()}
    torch.save(found, folder / f"{team.rank}.pt")
    return 0.0


class Seen(nn.Module):
    """Writes when it is trained, where, and by whom; with a `crowd`, its first step waits until so many have begun."""

    def __init__(self, shape: tuple[int, int, int], classes: int, crowd: int) -> None:
        super().__init__()
        self.head, self.crowd, self.steps = nn.Linear(shape[0] * shape[1] * shape[2], classes), crowd, 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            folder, said = Path(os.environ["RAYBD_TEST_FLAGS"]), os.environ.get("CUDA_VISIBLE_DEVICES")
            with (folder / f"{os.getpid()}-{id(self)}").open("a") as file:
                file.write(f"{time.time()} {said} {rank()}\n")
            self.steps += 1
            deadline = time.monotonic() + 120
            while self.steps == 1 and len(list(folder.iterdir())) < self.crowd and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(0.1 if self.crowd else 0.0)
        out: Tensor = self.head(x.flatten(1))
        return out


def one_of_four(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Seen(shape, classes, crowd=4)


def seen(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Seen(shape, classes, crowd=0)
