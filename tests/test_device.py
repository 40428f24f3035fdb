"""Everything on a stand-in for a GPU (tests/stand_in_device.py): its device's rules, and what the host waits for."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from raybd.attacks import ATTACKS, Attack
from raybd.data.describe import describe
from raybd.data.reader import RawData
from raybd.defences import DEFENCES, Defence
from raybd.defences.comparison import Suspects, most_suspected
from raybd.metrics import METRICS, Metric
from raybd.metrics.information import trained_critics
from raybd.models import build_model
from raybd.training import Checkpoint, Ranks, TrainConfig, fit
from raybd.training.weighting import Flagged
from raybd.trials.artifacts import save_artifacts
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.records import SweepFolder
from raybd.trials.run import run_trial
from raybd.types import Data, Images, Poisoned
from tests.conftest import steep_network
from tests.stand_in_device import CUDA, Waits, stand_in_device

CLASSES = 4
TRAIN = TrainConfig(epochs=1, batch_size=96, precision="fp32", crop=1, flip=True, deterministic=True)
QUICK = TrialConfig(train=TRAIN, model=ModelConfig(width=0.25), poison_rate=0.1, probes=(1,))


@pytest.fixture(scope="module")
def host() -> Data:
    """480 images of 16 x 16 on the CPU: a bright quarter tells the class."""
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(480) % CLASSES
    x = torch.randint(0, 120, (480, 1, 16, 16), generator=rng, dtype=torch.uint8)
    for quarter in range(CLASSES):
        top, left = 8 * (quarter // 2), 8 * (quarter % 2)
        x[y == quarter, :, top : top + 8, left : left + 8] += 120
    halves = Images(x[:384], y[:384]), Images(x[384:], y[384:])
    return describe("made", RawData(*halves, tuple("abcd")))


@pytest.fixture
def waits() -> Iterator[Waits]:
    with stand_in_device() as counted:
        yield counted


@pytest.fixture
def data(host: Data, waits: Waits) -> Data:
    """The images on the device."""
    return host.to("cuda")


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks(name: str, data: Data, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if name == "advdoor":
        monkeypatch.setenv("RAYBD_CACHE", str(tmp_path))
        monkeypatch.setattr("raybd.attacks.advdoor.surrogate", steep_network)
    monkeypatch.setattr("raybd.attacks.generator.MASK_EPOCHS", 1)
    quick: dict[str, dict[str, Any]] = {
        "advdoor": {"images": 20, "passes": 1},
        "label_consistent": {"steps": 2},
        "narcissus": {"steps": 12, "step": 50.0},
        "ssba": {"steps": 3, "width": 4},
    }
    attack: Attack = ATTACKS[name](**quick.get(name, {}))
    rate = 0.0 if name == "none" else 0.1
    result = run_trial(replace(QUICK, attack=attack, poison_rate=rate), data)
    assert result.roles.device == CUDA
    assert 0 <= result.metrics["accuracy/clean"] <= 1


SHORT: dict[str, dict[str, object]] = {
    "anp": {"steps": 3},
    "asd": {"seeds": 3},
    "dbd": {"pretrain_epochs": 1},
    "fine_pruning": {"steps": 3},
    "fine_tuning": {"steps": 3},
    "ft_sam": {"steps": 3},
    "ibau": {"rounds": 2, "ascents": 2, "fixed_points": 2},
    "nab": {"pretrain_epochs": 1},
    "nad": {"steps": 3, "teacher_steps": 3},
    "neural_cleanse": {"steps": 3, "inversion_steps": 3},
    "npd": {"steps": 3, "warm_steps": 1},
    "sau": {"steps": 3, "ascents": 2},
    "vibe": {"pretrain_epochs": 1, "iterations": 8, "e_steps": 2},
}


# The defences whose suspicion lies on the CPU.
RANKING = {"abl", "activation_clustering", "asd", "cbd", "dbd", "nab", "scan", "spectral", "vibe"}


def both_comparisons(refused: list[bool], poisoned: Poisoned, suspicion: Tensor | None) -> Suspects | None:
    """`most_suspected`; `refused` gets whether the device refuses a faulty one, which indexes the CPU by the device."""
    try:
        if suspicion is not None:
            suspicion[suspicion.argsort().to(poisoned.roles.device)]
        refused.append(False)
    except RuntimeError as error:
        refused.append("same device as the indexed tensor" in str(error))
    return most_suspected(poisoned, suspicion)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings within attacks and defences as short as they get."""
    monkeypatch.setattr("raybd.attacks.surrogate.EPOCHS", (1, 1))
    monkeypatch.setattr("raybd.defences.dbd.ENOUGH", 4)
    monkeypatch.setattr("raybd.metrics.information.trained_critics.STEPS", 3)
    for name in ("XT", "TY"):
        published = getattr(trained_critics, name)
        monkeypatch.setattr(trained_critics, name, replace(published, epochs=1))


@pytest.mark.parametrize("name", DEFENCES)
def test_defences(name: str, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[bool] = []
    monkeypatch.setattr("raybd.trials.measurements.most_suspected", partial(both_comparisons, refused))
    defence: Defence = DEFENCES[name](**SHORT.get(name, {}))
    config = replace(QUICK, defence=defence, validation=0.2)
    result = run_trial(config, data)
    folder = SweepFolder.of(tmp_path, "made").trial("key")
    (folder.path / "figures").mkdir(parents=True)
    save_artifacts(folder, config, result)
    assert refused == [name in RANKING]  # the stand-in catches a planted fault
    assert 0 <= result.metrics["accuracy/clean"] <= 1


CHEAP: dict[str, dict[str, object]] = {
    "mutual_information": {"samples": 32, "passes": 2, "classes": 1, "trained": True, "paper": True},
    "neural_cleanse": {"runs": 1, "steps": 2},
    "noise_votes": {"draws": 4, "points": 8},
    "smoothness": {"points": 8, "draws": 4},
    "stealthiness": {"samples": 32},
    "strip": {"blends": 2, "points": 8},
}


@pytest.mark.parametrize("name", METRICS)
def test_measures(name: str, data: Data) -> None:
    metric: Metric = METRICS[name](**CHEAP.get(name, {}))
    model = replace(QUICK.model, noise=0.4 if name in ("mutual_information", "stealthiness") else 0.0)
    result = run_trial(replace(QUICK, metrics=(metric,) if name != "accuracy" else (), model=model), data)
    assert 0 <= result.metrics["accuracy/clean"] <= 1


def network(data: Data) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model("small_cnn", data.train.shape, CLASSES, data.mean, data.std, width=0.25).to("cuda")


def test_a_resumed_training_ends_with_the_same_bits(data: Data, tmp_path: Path) -> None:
    config = replace(TRAIN, epochs=3, precision="auto")
    whole, resumed = network(data), network(data)
    list(fit(whole, data.train, config, 0))
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", every=0)
    stopped = fit(network(data), data.train, config, 0, checkpoint)
    next(stopped), next(stopped)
    assert [epoch.number for epoch in fit(resumed, data.train, config, 0, checkpoint)] == [2, 3]
    pairs = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def waits_of(training: TrainConfig, images: Images, model: torch.nn.Module, waits: Waits) -> dict[str, int]:
    """What the host waits for in a training, by file and operation."""
    waits.clear()
    list(fit(model, images, training, 0))
    found: dict[str, int] = {}
    for (where, operation), count in waits.items():
        name = f"{where.partition(':')[0]} {operation}"
        found[name] = found.get(name, 0) + count
    return found


def flagged(data: Data) -> Images:
    return Flagged(data.train.x, data.train.y, data.train.y == 0)


@pytest.mark.parametrize("beta", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_the_host_waits_twice_an_epoch_and_never_in_a_step(
    precision: Literal["fp32", "auto"], beta: float, data: Data, waits: Waits
) -> None:
    """For the order of the images, which the CPU draws, and for the loss."""
    images = data.train if beta == 1 else flagged(data)
    config = replace(TRAIN, precision=precision, beta=beta, epochs=2)
    found = [waits_of(replace(config, batch_size=size), images, network(data), waits) for size in (192, 64)]
    assert found[0] == found[1]
    if beta == 1:
        assert found[0] == {"training/loop.py to cuda:0": 2, "training/loop.py _local_scalar_dense": 2}


def test_mixmatch_never_waits_in_a_step(data: Data, waits: Waits) -> None:
    found = []
    for size in (160, 40):
        waits.clear()
        defended = replace(QUICK, defence=DEFENCES["asd"](**SHORT["asd"]), validation=0.2)
        run_trial(replace(defended, train=replace(TRAIN, batch_size=size)), data)
        found.append({at: count for at, count in waits.items() if at[0].startswith("defences/")})
    assert found[0] == found[1]


def test_a_rank_waits_no_more_than_one_process(data: Data, waits: Waits, monkeypatch: pytest.MonkeyPatch) -> None:
    """What PyTorch itself does between ranks needs several: here the other one's share is lost."""
    monkeypatch.setattr(Ranks, "of", lambda *args: Ranks(0, 2))
    monkeypatch.setattr(Ranks, "wrap", lambda ranks, model: model)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda x: None)
    found = [waits_of(replace(TRAIN, batch_size=size), data.train, network(data), waits) for size in (192, 64)]
    assert found == 2 * [{"training/loop.py to cuda:0": 1, "training/loop.py _local_scalar_dense": 1}]


@pytest.mark.parametrize("model", ["preact_resnet18", "resnet18", "torchvision:mobilenet_v3_small"])
def test_networks_under_autocast(model: str, data: Data) -> None:
    wanted = ModelConfig(name=model, width=1.0 if ":" in model else 0.125)
    config = replace(QUICK, model=wanted, train=replace(TRAIN, precision="auto"))
    assert 0 <= run_trial(config, data).metrics["accuracy/clean"] <= 1
