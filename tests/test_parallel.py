"""A training by several workers against the same training by one: the same samples, the same steps."""

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raybd.errors import InputError
from raybd.models import build_model
from raybd.seeds import derive, stream
from raybd.training import Checkpoint, TrainConfig, augment, fit, learning_rate, optimizer_of, parallel, prepare
from raybd.training.parallel import together
from raybd.training.team import BrokenTeamError
from raybd.training.weighting import Flagged
from tests.conftest import made_images
from tests.teamwork import Acting, Noting, at_home, network, normalise

HOW = TrainConfig(epochs=3, batch_size=16, learning_rate=0.05, crop=1, flip=True)  # of 43: batches of 16, 16 and 11
CPU = torch.device("cpu")


def far(one: nn.Module, other: nn.Module) -> float:
    """The largest difference of any two numbers of their states."""
    states = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a.double() - b.double()).abs().max()) for a, b in states)


def flagged() -> Flagged:
    images = made_images(43)
    return Flagged(images.x, images.y, torch.arange(43) % 5 == 0)


def test_one_worker_has_the_bits_of_the_plain_loop() -> None:
    """The loop written out, with nothing of a team in it."""
    images, seed = made_images(43), 3
    ours, plain = (nn.Sequential(*network(), nn.Dropout(0.3)) for _ in range(2))
    plain.load_state_dict(ours.state_dict())
    losses = [epoch.loss for epoch in fit(ours, images, HOW, seed)]
    plain.to(memory_format=torch.channels_last).train()
    optimizer = optimizer_of(plain, HOW)
    for epoch in range(1, 4):
        order = torch.randperm(43, generator=stream(seed, "batches", epoch))
        rng, total = stream(seed, "augmentation", epoch), torch.zeros(())
        torch.manual_seed(derive(seed, "network", epoch))
        for step, index in enumerate(order.split(16), start=3 * (epoch - 1)):
            optimizer.param_groups[0]["lr"] = learning_rate(HOW, step, 9)
            loss = F.cross_entropy(plain(prepare(augment(images.x[index], 1, True, rng), HOW)), images.y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(index)
        assert float(total) / 43 == losses[epoch - 1]
    assert far(ours, plain) == 0.0


@pytest.mark.parametrize(
    ("workers", "change"),
    [
        (2, {}),
        (3, {"label_smoothing": 0.1, "optimizer": "adamw", "learning_rate": 0.005}),
        (2, {"beta": 0.3}),
        (2, {"beta": 0.0}),
        (2, {"beta": 0.3, "beta_mode": "batchmean"}),
    ],
    ids=["plain", "three workers", "beta", "beta 0", "batchmean"],
)
def test_shared_steps_are_the_steps_of_one(workers: int, change: dict[str, object]) -> None:
    """Losses, weights and the running statistics of batch norm, after nine steps of unequal shares."""
    train_config, one, many = replace(HOW, **change), network(), network()  # type: ignore[arg-type]
    images = flagged() if "beta" in change else made_images(43)
    alone = [epoch.loss for epoch in fit(one, images, train_config, seed=1)]
    shared = [epoch.loss for epoch in fit(many, images, train_config, seed=1, workers=workers)]
    assert shared == pytest.approx(alone, abs=2e-6)
    assert far(one, many) < 2e-6  # 2e-7 was seen
    assert far(one, network()) > 1e-2


@pytest.mark.parametrize("name", ["small_cnn", "resnet18", "preact_resnet18"])
def test_a_step_of_raybd_s_networks_with_a_worker_that_gets_no_image(name: str) -> None:
    """Three workers, batches of 16 and then 2, over which batch norm leaves little but rounding in the last blocks."""
    train_config = replace(HOW, epochs=1, learning_rate=1e-4)
    models = []
    for workers in (1, 3):
        torch.manual_seed(0)
        models.append(build_model(name, (1, 8, 8), 4, [0.5], [0.3], width=0.25))
        list(fit(models[-1], made_images(18), train_config, seed=1, workers=workers))
    assert far(*models) < 2e-4  # 4e-5 was seen; another memory format of one worker, 1e-5


def test_bf16_is_shared_too() -> None:
    train_config, one, many = replace(HOW, precision="bf16"), network(), network()
    alone = [epoch.loss for epoch in fit(one, made_images(43), train_config, seed=1)]
    assert [epoch.loss for epoch in fit(many, made_images(43), train_config, seed=1, workers=2)] == pytest.approx(
        alone, abs=0.02
    )


@pytest.mark.parametrize("n", [7, 2], ids=["unequal", "one empty"])
@pytest.mark.parametrize("kind", ["plain", "cumulative", "no weights", "no statistics"])
def test_batch_norm_is_pytorch_s_of_the_whole_batch(kind: str, n: int, tmp_path: Path) -> None:
    settings = {
        "plain": {},
        "cumulative": {"momentum": None},
        "no weights": {"affine": False},
        "no statistics": {"track_running_stats": False},
    }[kind]
    rng = torch.Generator().manual_seed(0)
    x = 100 + torch.randn(n, 3, 2, 2, generator=rng, dtype=torch.float64)
    grad = torch.randn(n, 3, 2, 2, generator=rng, dtype=torch.float64)
    norm = nn.BatchNorm2d(3, **settings).double()  # type: ignore[arg-type]
    if norm.affine:
        norm.weight.data, norm.bias.data = (torch.randn(3, generator=rng).double() for _ in range(2))
    workers = 2 if n == 7 else 3
    with together(partial(normalise, tmp_path, norm, x, grad), workers, CPU) as turn:
        norm.zero_grad()
        turn(1)
        turn(2)  # the second counts twice: gradients of weights and momentum add up
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(workers)]

    theirs, whole = nn.BatchNorm2d(3, **settings).double(), x.clone().requires_grad_()  # type: ignore[arg-type]
    if norm.affine:
        theirs.weight.data, theirs.bias.data = norm.weight.data.clone(), norm.bias.data.clone()
    theirs(x)
    y = theirs(whole)
    y.backward(grad)
    assert torch.allclose(torch.cat([one["y"] for one in found]), y, atol=1e-10)
    assert torch.allclose(torch.cat([one["dx"] for one in found]), whole.grad, atol=1e-10)
    for one in found:
        for name, value in theirs.state_dict().items():
            assert torch.allclose(one[name].double(), value.double(), atol=1e-10), name


def test_every_step_has_the_samples_of_one_worker(tmp_path: Path) -> None:
    steps = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        list(fit(Noting(folder), made_images(43), HOW, seed=1, workers=workers))
        parts = [[torch.load(folder / f"{s}.{rank}.pt")["x"] for rank in range(workers)] for s in range(1, 10)]
        assert workers == 1 or [len(part) for part in parts[2]] == [5, 6]
        steps.append([torch.cat(step) for step in parts])
    assert all(torch.equal(one, many) for one, many in zip(*steps, strict=True))


def test_no_two_workers_draw_the_same_inside_the_network(tmp_path: Path) -> None:
    """The first goes on with the stream that a lone worker has; each other has one of its own."""
    list(fit(Noting(tmp_path), made_images(43), replace(HOW, epochs=1), seed=1, workers=3))
    drawn = [
        torch.cat([torch.load(tmp_path / f"{step}.{rank}.pt")["drawn"].flatten() for step in (1, 2, 3)])
        for rank in range(3)
    ]
    for rank, numbers in enumerate(drawn):
        rng = stream(1, "network", 1, *([rank] if rank else []))
        sizes = [len(torch.load(tmp_path / f"{step}.{rank}.pt")["x"]) for step in (1, 2, 3)]
        assert torch.equal(numbers, torch.cat([torch.randn(n, 50, generator=rng).flatten() for n in sizes]))
    every = torch.stack([numbers[:650] for numbers in drawn])
    assert torch.corrcoef(every).triu(1).abs().max() < 4 / math.sqrt(650)
    assert abs(float(every.mean())) < 4 / math.sqrt(every.numel())


def test_resumed_equals_uninterrupted_to_the_bit(tmp_path: Path) -> None:
    whole, cut, resumed = network(), network(), network()
    losses = [epoch.loss for epoch in fit(whole, made_images(43), HOW, seed=1, workers=2)]
    training = fit(cut, made_images(43), HOW, 1, Checkpoint(tmp_path / "c.pt", every=0.0), workers=2)
    first = [next(training).loss for _ in range(2)]  # the state after epoch 1 is saved as epoch 2 begins
    assert len(multiprocessing.active_children()) == 1
    training.close()
    assert not multiprocessing.active_children()
    later = [epoch.loss for epoch in fit(resumed, made_images(43), HOW, 1, Checkpoint(tmp_path / "c.pt"), workers=2)]
    assert first[:1] + later == losses
    assert far(whole, resumed) == 0.0


@pytest.mark.parametrize(
    ("act", "said"),
    [
        ("die", "worker 2 of 2 died: exit status -9"),
        ("raise", "worker 2 of 2 died: ValueError: planted failure"),
        ("stop", "gone or silent"),
    ],
)
def test_a_peer_that_fails_is_told_and_ends_the_training(act: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "TIMEOUT", 8.0 if act == "stop" else 300.0)
    monkeypatch.setattr(parallel, "GRACE", 2.0)
    start = time.monotonic()
    with pytest.raises(BrokenTeamError, match=said):
        list(fit(Acting(act), made_images(43), HOW, seed=1, workers=2))
    assert time.monotonic() - start < 60
    assert not multiprocessing.active_children()
    assert not torch.distributed.is_initialized()
    assert next(fit(network(), made_images(43), HOW, seed=1, workers=2)).number == 1  # and another can begin


@pytest.mark.parametrize("when", ["within an epoch", "between two"])
def test_peers_do_not_outlive_a_killed_trial(when: str, tmp_path: Path) -> None:
    code = (
        "import multiprocessing, time\nfrom tests.test_parallel import *\n"
        "for epoch in fit(Acting('sleep'), made_images(43), replace(HOW, epochs=500), seed=1, workers=3):\n"
        "    print(*(child.pid for child in multiprocessing.active_children()), flush=True)\n"
        f"    time.sleep({0 if when == 'within an epoch' else 100})\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as leader:
        assert leader.stdout is not None
        peers = [int(pid) for pid in leader.stdout.readline().split()]
        time.sleep(1)
        leader.send_signal(signal.SIGKILL)
    assert len(peers) == 2
    deadline = time.monotonic() + 20
    while any(map(alive, peers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, peers))


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits for a parent to ask does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_cannot_be_sent_is_told() -> None:
    model = network()
    model.register_forward_hook(lambda *_: None)
    with pytest.raises(InputError, match="cannot be sent to other workers: .*lambda"):
        next(fit(model, made_images(43), HOW, seed=1, workers=2))


def test_too_few_gpus_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with (
        pytest.raises(InputError, match="2 workers need a GPU each, and this process sees 1"),
        together(lambda number, team: 0.0, 2, torch.device("cuda")),
    ):
        pass


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux tells who listens where")
def test_nobody_outside_this_machine_is_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("GLOO", "NCCL"):
        monkeypatch.delenv(f"{library}_SOCKET_IFNAME", raising=False)
    with together(at_home, 2, CPU) as turn:
        assert turn(1) >= 1  # and a peer that listens elsewhere raises
    assert {os.environ[f"{library}_SOCKET_IFNAME"] for library in ("GLOO", "NCCL")} == {"lo"}
