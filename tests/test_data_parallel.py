"""Data-parallel training on gloo: the samples and the gradients of one process, batch norm by rank."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.attacks import WaNet
from raybd.command_line import command
from raybd.command_line.options import SweepOptions
from raybd.defences import DEFENCES, Defence, Oracle
from raybd.errors import InputError
from raybd.execution.resources import Resources
from raybd.metrics.detection.strip import Strip
from raybd.plugins import parse
from raybd.seeds import derive, stream
from raybd.training import Ranks, TrainConfig, augment, fit, learning_rate, optimizer_of, prepare
from raybd.training.data_parallel import _synchronised, lost_ranks
from raybd.training.weighting import Flagged
from raybd.trials.config import TrialConfig
from raybd.trials.model import ModelConfig
from raybd.trials.run import run_trial
from raybd.trials.validate import check_trial
from raybd.types import Data
from tests import ranks
from tests.conftest import made_images
from tests.processes import context
from tests.ranks import Plain, normed, on_ranks

TRAIN = TrainConfig(epochs=3, batch_size=16, learning_rate=0.05, crop=1, flip=True)  # of 43: batches of 16, 16 and 11
TWO = replace(TRAIN, workers=2)


def far(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of any two numbers of two states."""
    return max(float((a.double() - b.double()).abs().max()) for a, b in zip(one.values(), other.values(), strict=True))


def flagged() -> Flagged:
    images = made_images(43)
    return Flagged(images.x, images.y, torch.arange(43) % 5 == 0)


def test_one_process_has_the_bits_of_the_plain_loop() -> None:
    """The loop written out, with nothing of ranks in it."""
    images, seed = made_images(43), 3
    ours, plain = (nn.Sequential(*normed(), nn.Dropout(0.3)) for _ in range(2))
    plain.load_state_dict(ours.state_dict())
    losses = [epoch.loss for epoch in fit(ours, images, TRAIN, seed)]
    plain.to(memory_format=torch.channels_last).train()
    optimizer = optimizer_of(plain, TRAIN)
    for epoch in range(1, 4):
        order = torch.randperm(43, generator=stream(seed, "batches", epoch))
        rng, total = stream(seed, "augmentation", epoch), torch.zeros(())
        torch.manual_seed(derive(seed, "network", epoch))
        for step, index in enumerate(order.split(16), start=3 * (epoch - 1)):
            optimizer.param_groups[0]["lr"] = learning_rate(TRAIN, step, 9)
            loss = F.cross_entropy(plain(prepare(augment(images.x[index], 1, True, rng), TRAIN)), images.y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(index)
        assert float(total) / 43 == losses[epoch - 1]
    assert far(ours.state_dict(), plain.state_dict()) == 0.0


@pytest.mark.parametrize(
    ("n", "change"),
    [
        (43, {"workers": 2}),
        (43, {"workers": 3, "label_smoothing": 0.1, "optimizer": "adamw", "learning_rate": 0.005}),
        (34, {"workers": 2, "batch_size": 33}),
        (37, {"workers": 3, "batch_size": 11}),
        (43, {"workers": 2, "beta": 0.3}),
        (43, {"workers": 2, "beta": 0.0}),
        (43, {"workers": 2, "beta": 0.3, "beta_mode": "batchmean"}),
    ],
    ids=["plain", "three ranks", "a lone last image", "a rank without images", "beta", "beta 0", "batchmean"],
)
def test_the_gradient_is_that_of_the_whole_batch(n: int, change: dict[str, object], tmp_path: Path) -> None:
    """Losses and weights after three epochs of unequal shares; the last batch of 37 has 4 images for 3 ranks."""
    train_config = replace(TRAIN, **change)  # type: ignore[arg-type]
    images = flagged() if "beta" in change else made_images(n)
    alone, one = ranks.trained(Plain, images, replace(train_config, workers=1))
    found = on_ranks(tmp_path, train_config.workers, ranks.trained, Plain, images, train_config)
    for shared, many in found:
        assert shared == pytest.approx(alone, abs=1e-6)
        assert far(one, many) < 1e-6
    assert far(one, Plain().state_dict()) > 1e-3


def test_batch_norm_sees_each_rank_s_share_and_rank_0_s_statistics_are_kept(tmp_path: Path) -> None:
    """Against the same steps written out: a forward pass for each share, gradients weighed by their sizes."""
    images, by_hand = made_images(43), normed().to(memory_format=torch.channels_last).train()
    optimizer = optimizer_of(by_hand, TWO)
    for epoch in range(1, 4):
        order = torch.randperm(43, generator=stream(1, "batches", epoch))
        rng = stream(1, "augmentation", epoch)
        for step, index in enumerate(order.split(16), start=3 * (epoch - 1)):
            optimizer.param_groups[0]["lr"] = learning_rate(TWO, step, 9)
            x, n = augment(images.x[index], 1, True, rng), len(index)
            optimizer.zero_grad()
            first, second = slice(0, n // 2), slice(n // 2, n)
            part = F.cross_entropy(by_hand(prepare(x[first], TWO)), images.y[index[first]], reduction="sum")
            kept = [statistic.clone() for statistic in by_hand.buffers()]
            rest = F.cross_entropy(by_hand(prepare(x[second], TWO)), images.y[index[second]], reduction="sum")
            ((part + rest) / n).backward()  # type: ignore[no-untyped-call]
            for statistic, before in zip(by_hand.buffers(), kept, strict=True):
                statistic.copy_(before)
            optimizer.step()
    (_, first_state), _ = on_ranks(tmp_path, 2, ranks.trained, normed, images, TWO)
    assert far(first_state, by_hand.state_dict()) < 1e-6
    assert far(first_state, ranks.trained(normed, images, TRAIN)[1]) > 1e-4  # one process has other statistics


def test_bf16_is_shared_too(tmp_path: Path) -> None:
    train_config = replace(TRAIN, precision="bf16")
    alone, _ = ranks.trained(Plain, made_images(43), train_config)
    (shared, _), _ = on_ranks(tmp_path, 2, ranks.trained, Plain, made_images(43), replace(train_config, workers=2))
    assert shared == pytest.approx(alone, abs=0.02)


def test_every_step_has_the_samples_of_one_process_and_every_rank_draws_for_itself(tmp_path: Path) -> None:
    images, epochs = made_images(43), 3
    whole, _ = ranks.noted(images, TRAIN)
    (first, drawn), (second, drawn_beside) = on_ranks(tmp_path, 2, ranks.noted, images, TWO)
    assert [len(part) for part in (first[2], second[2])] == [5, 6]
    assert all(torch.equal(x, torch.cat(parts)) for x, *parts in zip(whole, first, second, strict=True))
    own, beside = torch.cat(drawn).flatten(), torch.cat(drawn_beside).flatten()
    assert torch.equal(drawn[0].flatten(), torch.randn(8, 5, generator=stream(1, "network", 1)).flatten())
    assert torch.equal(drawn_beside[0].flatten(), torch.randn(8, 5, generator=stream(1, "network", 1, 1)).flatten())
    n = min(len(own), len(beside))
    assert n >= 5 * 21 * epochs
    assert abs(float(torch.corrcoef(torch.stack([own[:n], beside[:n]]))[0, 1])) < 4 / math.sqrt(n)


def test_resumed_equals_uninterrupted_to_the_bit(tmp_path: Path) -> None:
    """The second of two epochs is cut off after its end: rank 0's checkpoint is of the first."""
    images, file = made_images(43), tmp_path / "checkpoint.pt"
    (losses, whole), _ = on_ranks(tmp_path, 2, ranks.trained, normed, images, TWO)
    (first, _), _ = on_ranks(tmp_path, 2, ranks.trained, normed, images, TWO, file, 2)
    (later, resumed), (later_beside, _) = on_ranks(tmp_path, 2, ranks.trained, normed, images, TWO, file)
    assert first[:1] + later == losses
    assert later_beside == later
    assert far(whole, resumed) == 0.0


def test_rank_0_may_copy_and_train_the_network_between_two_epochs(tmp_path: Path) -> None:
    alone, beside = on_ranks(tmp_path, 2, ranks.copied_and_trained_alone, TWO)
    assert math.isfinite(alone)
    assert alone != beside == 0.0


def test_synchronised_batch_norm_is_of_a_copy_that_shares_every_tensor() -> None:
    model = normed()
    copied = _synchronised(model)
    assert [type(layer) for layer in model][1] is nn.BatchNorm2d
    assert [type(layer) for layer in copied][1] is nn.SyncBatchNorm  # type: ignore[arg-type,misc]
    ours, theirs = ({n: t.data_ptr() for n, t in one.state_dict().items()} for one in (model, copied))
    assert ours == theirs


def test_synchronised_batch_norm_is_refused_on_a_cpu(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sync_batch_norm needs GPUs: PyTorch's SyncBatchNorm refuses a CPU"):
        on_ranks(tmp_path, 2, ranks.trained, normed, made_images(43), replace(TWO, sync_batch_norm=True))


def test_shares_are_whole_and_each_large_enough_for_batch_norm() -> None:
    for size in (2, 3, 4):
        for n in range(2, 30):
            shares = [Ranks(rank, size).share(n) for rank in range(size)]
            counted = [index for part, weight in shares if weight for index in range(n)[part]]
            assert counted == list(range(n))
            assert all(len(range(n)[part]) >= 2 for part, _ in shares)
            synchronised = [Ranks(rank, size, True).share(n) for rank in range(size)]
            assert [index for part, _ in synchronised for index in range(n)[part]] == list(range(n))
            assert {weight for _, weight in synchronised} == {1.0}


def test_what_rank_0_computes_is_on_every_rank(tmp_path: Path) -> None:
    assert on_ranks(tmp_path, 2, ranks.told, [7, 8]) == [[7], [7]]
    assert Ranks().decide(True)
    assert not Ranks().decide(False)


def test_a_rank_that_is_killed_is_told_from_a_failure_of_ones_own(tmp_path: Path) -> None:
    from concurrent.futures.process import BrokenProcessPool

    answers = context().Queue()
    args = (str(tmp_path / "store"), 2, TWO, answers)
    processes = [context().Process(target=ranks.report_of_rank, args=(rank, *args)) for rank in range(2)]
    for process in processes:
        process.start()
    said = answers.get(timeout=60)
    for process in processes:
        process.join(30)
    assert said.startswith("True ")
    assert processes[1].exitcode == -9
    assert not any(
        map(
            lost_ranks, [ValueError("gloo"), torch.OutOfMemoryError("CUDA"), RuntimeError("shape"), BrokenProcessPool()]
        )
    )


SHORT = TrialConfig(train=TrainConfig(epochs=2, learning_rate=0.05, workers=2), poison_rate=0.1, validation=0.1)
PERCEPTRON = ModelConfig(name="tests.ranks:perceptron")


@pytest.mark.parametrize(
    "config",
    [
        replace(SHORT, metrics=(Strip(points=50),)),
        replace(SHORT, defence=Oracle()),
        replace(SHORT, poison_rate=0.0),
        replace(SHORT, attack=WaNet(each_epoch=True)),
        replace(SHORT, train=replace(SHORT.train, beta=0.5)),
    ],
    ids=["with a clean twin", "oracle", "clean twin", "renewed each epoch", "beta"],
)
def test_a_trial_without_batch_norm_measures_what_one_worker_does(
    config: TrialConfig, digits: Data, tmp_path: Path
) -> None:
    config = replace(config, model=PERCEPTRON)
    alone = run_trial(replace(config, train=replace(config.train, workers=1)), digits, shared=tmp_path / "1").metrics
    shared, _ = on_ranks(tmp_path, 2, ranks.traced, config, digits, tmp_path / "2")
    assert shared.keys() == alone.keys()
    for name, value in alone.items():
        if not name.startswith("seconds"):
            assert shared[name] == pytest.approx(value, abs=1e-4), name


def made(name: str) -> Defence:
    return parse("defence", DEFENCES, name)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in DEFENCES if made(name).parallel])
def test_what_calls_itself_parallel_trains_in_step(name: str, digits: Data, tmp_path: Path) -> None:
    """A rank that leaves the others alone with a message would hang: every such defence ends on both."""
    config = replace(SHORT, train=replace(SHORT.train, epochs=1), defence=made(name))
    found, beside = on_ranks(tmp_path, 2, ranks.traced_all, [config], digits, tmp_path / "shared")
    assert "accuracy/clean" in found[0]
    assert beside == [{}]


def test_defences_that_call_themselves_parallel() -> None:
    assert sum(made(name).parallel for name in DEFENCES) > 5


def refusal(config: TrialConfig, data: Data) -> str:
    with pytest.raises(InputError) as caught:
        check_trial(config, data)
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize("name", [name for name in DEFENCES if not made(name).parallel])
def test_a_defence_with_a_loop_of_its_own_is_refused_several_workers(name: str, digits: Data) -> None:
    said = refusal(replace(SHORT, defence=made(name)), digits)
    assert f"defence {name} has no training that 2 workers could share" in said


def test_what_several_workers_cannot_share_is_refused_by_name(digits: Data) -> None:
    pair = ModelConfig(name="logistic", C=1.0)
    assert "model logistic is solved, not trained: leave train.workers alone" in refusal(
        replace(SHORT, model=pair, data="digits[7,1]", validation=0.0), digits
    )
    frozen = replace(SHORT, model=ModelConfig(name="tests.ranks:frozen"))
    assert refusal(frozen, digits) == "model tests.ranks:frozen has no trainable weights: 2 workers cannot share it"
    tight = replace(SHORT, train=replace(SHORT.train, batch_size=3))
    assert "batch size 3 is too small for 2 workers: each needs 2 images" in refusal(tight, digits)
    lone = replace(SHORT, train=replace(SHORT.train, workers=1, sync_batch_norm=True))
    assert "sync_batch_norm needs several workers" in refusal(lone, digits)
    with pytest.raises(InputError, match="2 workers runs on Ray, in a process group of 2, not 1"):
        run_trial(SHORT, digits)


def test_workers_and_batch_norm_are_in_the_key_where_they_are_used() -> None:
    alone = replace(SHORT, train=replace(SHORT.train, workers=1))
    synchronised = replace(SHORT, train=replace(SHORT.train, sync_batch_norm=True))
    assert len({alone.key, SHORT.key, synchronised.key}) == 3
    assert {"workers", "sync_batch_norm"}.isdisjoint(alone.to_dict()["train"])
    assert TrialConfig.from_dict(synchronised.to_dict()) == synchronised
    assert "workers=2" in SHORT.label


def test_the_command_line_refuses_workers_that_cannot_be_had(capsys: pytest.CaptureFixture[str]) -> None:
    presets = {"quick": SweepOptions()}

    def said(*args: str) -> str:
        assert command.main(presets, lambda *_: ("", []), ["--dry-run", *args]) == 2
        return capsys.readouterr().err

    def workers(*args: str) -> set[int]:
        assert command.main(presets, lambda *_: ("", []), ["--dry-run", *args]) == 0
        return {2 if "workers=2" in line else 1 for line in capsys.readouterr().out.splitlines() if "seed=" in line}

    assert "a trial cannot have 1.5 GPUs" in said("--gpus-per-trial", "1.5")
    assert "defence abl has no training that 2 workers" in said("--gpus-per-trial", "2", "--defences", "none", "abl")
    assert "--inline runs a trial in one process" in said("--workers-per-trial", "2", "--inline")
    assert "each worker has one GPU" in said("--workers-per-trial", "2", "--gpus-per-trial", "1")
    assert "--sync-batch-norm needs several workers" in said("--sync-batch-norm")
    assert "--workers-per-trial must be at least 1, got 0" in said("--workers-per-trial", "0")
    assert workers() == workers("--gpus-per-trial", "0.25") == {1}
    assert workers("--gpus-per-trial", "2") == workers("--workers-per-trial", "2") == {2}
    assert not any(Resources(gpus=gpus).problems() for gpus in (None, 0.0, 0.25, 1.0, 2.0))
