"""Sets that are streamed: the same bits as in memory, under every attack, defence and metric, and in little memory."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raybd.attacks import ATTACKS
from raybd.attacks.poisoning import PoisonSpec
from raybd.attacks.verification import verify_poisoning
from raybd.command_line import grid
from raybd.command_line.dry_run import print_trials
from raybd.command_line.options import SweepOptions
from raybd.data import load
from raybd.data.residency import describe_place, is_large, place, streamed
from raybd.defences import DEFENCES, Defence
from raybd.errors import InputError
from raybd.execution.object_store import pack_data, unpack_data
from raybd.metrics import METRICS
from raybd.pixels import is_streamed
from raybd.training import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.run import run_trial
from raybd.trials.validate import prepare
from raybd.types import Data, Images

SIDE, CLASSES = 16, 3


@pytest.fixture(scope="module")
def data() -> Data:
    """240 images (3, 16, 16) of three brightnesses."""
    rng = torch.Generator().manual_seed(0)

    def images(n: int) -> Images:
        y = torch.arange(n) % CLASSES
        x = torch.randint(0, 90, (n, 3, SIDE, SIDE), generator=rng) + 80 * y[:, None, None, None]
        return Images(x.to(torch.uint8), y)

    whole = images(240)
    return Data("made", whole, images(60), ("a", "b", "c"), "made", (0.5,) * 3, (0.3,) * 3)


def config(**changes: object) -> TrialConfig:
    train = TrainConfig(epochs=2, batch_size=32, learning_rate=0.02, crop=1, flip=True)
    usual = TrialConfig(data="digits", poison_rate=0.1, model=ModelConfig(width=0.25), train=train, seed=1)
    return replace(usual, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in ("none", "label_consistent")])
def test_every_attack_stamps_the_same_bytes_when_images_are_read(
    data: Data, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raybd.attacks.generator.MASK_EPOCHS", 1)
    settings = {
        "advdoor": {"images": 20, "passes": 1},
        "narcissus": {"steps": 12, "step": 50.0},
        "ssba": {"steps": 3, "width": 4},
        "wanet": {"each_epoch": True},
    }
    attack = ATTACKS[name](**settings.get(name, {}))
    spec = PoisonSpec(attack, 0.1, 3).on(data.train, CLASSES)
    kept, read = spec.poison(data.train, CLASSES), spec.poison(streamed(data).train, CLASSES)
    assert is_streamed(read.images.x)
    assert torch.equal(read.images.x[:], kept.images.x)
    assert torch.equal(torch.cat(list(read.images.x.split(7))), kept.images.x)
    assert torch.equal(read.images.at(2).x[:], kept.images.at(2).x)
    assert torch.equal(read.images.y, kept.images.y)
    assert verify_poisoning(spec, streamed(data).train, read, CLASSES) == verify_poisoning(
        spec, data.train, kept, CLASSES
    )
    test, here = spec.triggered(streamed(data).test, CLASSES), spec.triggered(data.test, CLASSES)
    assert torch.equal(test.x[:], here.x)
    assert torch.equal(test.y, here.y)


QUICK = ("none", "oracle", "abl", "augmented", "nab", "spectral", "vibe")  # each reads in its own way
DEFENDED = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.calibration)
    for name, defence in DEFENCES.items()
    if defence.streams
]


def built(name: str) -> Defence:
    """The defence, as short as it can be."""
    quick = {
        "dbd": {"pretrain_epochs": 1, "head_epochs": 1},
        "nab": {"pretrain_epochs": 1},
        "npd": {"steps": 2, "warm_steps": 1},
        "sau": {"steps": 2},
        "vibe": {"pretrain_epochs": 1, "iterations": 4},
    }
    return DEFENCES[name](**quick.get(name, {}))


@pytest.mark.parametrize("name", DEFENDED)
def test_every_defence_trains_to_the_same_bits(data: Data, name: str) -> None:
    asked = config(defence=built(name), validation=0.3)
    kept, read = run_trial(asked, data), run_trial(asked, streamed(data))
    assert timeless(read.metrics) == timeless(kept.metrics)
    assert read.manifest == kept.manifest
    for one, other in zip(kept.model.state_dict().values(), read.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_defences_and_models_that_need_every_image_at_once_are_refused_by_name(data: Data) -> None:
    for asked, name in ((config(defence=DEFENCES["asd"](), validation=0.2), "defence asd"), (convex(), "model svm")):
        with pytest.raises(InputError, match=f"{name} needs all images in memory, and made is streamed"):
            run_trial(asked, streamed(data))


def convex() -> TrialConfig:
    return TrialConfig(data="digits", model=ModelConfig(name="svm"))


def timeless(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if "seconds" not in name}


FAST = ("stealth", "strip", "noise_votes")
MEASURED = [
    pytest.param(name, marks=() if name in FAST else pytest.mark.calibration)
    for name in METRICS
    if name not in ("accuracy", "learning_curves")
]


@pytest.mark.parametrize("name", MEASURED)
def test_every_metric_measures_the_same(data: Data, name: str) -> None:
    small = {"mutual_information": {"samples": 64}, "smoothness": {"points": 4}}
    metric = METRICS[name](**small.get(name, {}))
    train = TrainConfig(epochs=1, batch_size=32, learning_rate=0.02)
    asked = config(metrics=(metric,), poison_rate=0.2, model=ModelConfig(width=0.25, noise=0.4), train=train)
    assert timeless(run_trial(asked, streamed(data)).metrics) == timeless(run_trial(asked, data).metrics)


def test_label_consistent_stamps_the_same(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYBD_CACHE", str(tmp_path))
    spec = PoisonSpec(ATTACKS["label_consistent"](steps=2), 0.1, 3)  # type: ignore[call-arg]
    monkeypatch.setattr("raybd.attacks.surrogate.EPOCHS", (1, 1))
    kept, read = spec.poison(data.train, CLASSES), spec.poison(streamed(data).train, CLASSES)
    assert torch.equal(read.images.x[:], kept.images.x)
    assert len(list(tmp_path.glob("surrogates/*.pt"))) == 1  # one hash of the images, however they lie


def saved(path: Path, x: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(x).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of different sizes, some grey, in the layout of ImageNet."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 6), ("val", 2)):
        for label in "ab":
            for i in range(n):
                size = (8 + i, 12, 3) if i % 2 else (9, 7 + i)
                saved(tmp_path / "set" / split / label / f"{i}.png", rng.integers(0, 256, size, dtype=np.uint8))
    return tmp_path / "set"


def test_images_of_different_sizes_are_resized_once(folder: Path) -> None:
    name, root = f"folder:{folder}", folder.parent / "root"
    with pytest.raises(InputError, match="--resize 64"):
        load(name, root)
    small, large = load(name, root, 4), load(name, root, 10)
    assert (small.train.shape, large.test.shape) == ((3, 4, 4), (3, 10, 10))
    assert (len(large.train), len(large.test)) == (12, 4)
    assert small.fingerprint != large.fingerprint
    assert {file.name.rsplit("-")[-1] for file in (root / "raybd-cache").glob("*.pt")} == {"4px.pt", "10px.pt"}
    with Image.open(folder / "train" / "a" / "1.png") as image:  # 9 high, 12 wide
        wanted = np.asarray(image.resize((13, 10), Image.Resampling.BILINEAR))[:, 1:11]
    assert np.array_equal(large.train.x[1].permute(1, 2, 0).numpy(), wanted)


def test_any_set_can_be_resized_and_its_trials_have_other_keys(tmp_path: Path) -> None:
    plain, large = load("digits"), load("digits", tmp_path, 12)
    assert large.train.shape == (1, 12, 12)
    assert torch.equal(large.train.y, plain.train.y)
    known, data = prepare([TrialConfig(resize=12), TrialConfig()], tmp_path)
    assert len({one.key for one in known}) == 2
    assert [data[one.image_set].train.shape for one in known] == [(1, 12, 12), (1, 8, 8)]
    assert known[0].params["resize"] == 12
    assert "resize" not in known[1].params


def tiny_imagenet(folder: Path) -> None:
    """Two classes in Tiny-ImageNet's own layout, and images without labels under test."""
    rng = np.random.default_rng(1)
    ids = ("n02", "n01")
    for name in ids:
        for i in range(3):
            path = folder / "train" / name / "images" / f"{name}_{i}.JPEG"
            saved(path, rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        (folder / "train" / name / f"{name}_boxes.txt").write_text("")
    for i in range(4):
        saved(folder / "val" / "images" / f"val_{i}.JPEG", rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    saved(folder / "test" / "images" / "test_0.JPEG", np.zeros((8, 8, 3), np.uint8))
    lines = [f"val_{i}.JPEG\t{ids[i % 2]}\t0\t0\t62\t62" for i in range(4)]
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines))
    (folder / "wnids.txt").write_text("\n".join(ids))
    (folder / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tcrane\nn03\tcrane\n")


def test_tiny_imagenet_reads(tmp_path: Path) -> None:
    tiny_imagenet(tmp_path / "tiny")
    found = load(f"folder:{tmp_path / 'tiny'}", tmp_path)
    assert found.classes == ("n01 goldfish", "n02 crane")
    assert found.train.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.test.y.tolist() == [0, 0, 1, 1]
    with Image.open(tmp_path / "tiny" / "val" / "images" / "val_3.JPEG") as image:
        assert np.array_equal(found.test.x[1].permute(1, 2, 0).numpy(), np.asarray(image))


def test_what_is_wrong_with_tiny_imagenet_is_named_at_once(tmp_path: Path) -> None:
    tiny_imagenet(tmp_path / "tiny")
    (tmp_path / "tiny" / "wnids.txt").write_text("n01\nn09\n")
    with pytest.raises(InputError) as refused:
        load(f"folder:{tmp_path / 'tiny'}", tmp_path)
    assert "no training image of class n09" in str(refused.value)
    assert "val_annotations.txt names classes that wnids.txt does not: n02" in str(refused.value)


def test_a_budget_decides_and_says_which() -> None:
    digits = load("digits")
    needed = 2 * (1297 + 500) * 64
    assert is_streamed(place(digits, needed - 1).train.x)
    assert not is_streamed(place(digits, needed).train.x)
    assert not is_streamed(place(place(digits, 0), needed).train.x)
    assert describe_place(place(digits, 0), 0).endswith("above 0 GB (--data-memory): streamed from the disk")
    assert (
        describe_place(digits, 1e9)
        == "digits: 0.23 MB of images with their triggers, within 1 GB (--data-memory): in memory"
    )


def test_a_sweep_says_so_of_sets_that_somebody_may_wonder_about() -> None:
    digits = load("digits")
    assert not is_large(digits)
    assert is_large(streamed(digits))
    big = Images(torch.empty(1, dtype=torch.uint8).expand(2600, 3, 256, 256), digits.train.y[:1].expand(2600))
    assert is_large(replace(digits, train=big))


def test_a_dry_run_says_which(capsys: pytest.CaptureFixture[str]) -> None:
    asked = SweepOptions.of(data_memory=0, seeds=1, poison_rates=(0.1,), attacks=("badnets",), inline=True)
    assert print_trials(asked, grid.expand(asked)) == 0
    assert "above 0 GB (--data-memory): streamed from the disk" in capsys.readouterr().out


def test_workers_of_a_streamed_set_are_told_where_it_lies() -> None:
    digits = streamed(load("digits"))
    packed = pack_data(digits)
    assert set(packed) == {"origin", "fingerprint"}  # no pixel goes through Ray
    found = unpack_data(packed)
    assert is_streamed(found.train.x)
    assert torch.equal(found.train.x[:9], digits.train.x[:9])
    with pytest.raises(InputError, match="on this machine, not another"):
        unpack_data(packed | {"fingerprint": "another"})
    with pytest.raises(InputError, match="comes from no name"):
        pack_data(replace(digits, origin=None))


LARGE = """
import sys
import threading
from pathlib import Path
import torch
from raybd.command_line import grid
from raybd.command_line.dry_run import print_trials
from raybd.command_line.options import SweepOptions
from raybd.data import load
from raybd.data.residency import place
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.training import TrainConfig
from raybd.trials.run import run_trial

torch.set_num_threads(1)
most, done = 0, threading.Event()

def watch():
    global most
    while not done.wait(0.02):
        line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("RssAnon"))
        most = max(most, int(line.split()[1]) // 1024)

threading.Thread(target=watch, daemon=True).start()
data = place(load("npz:" + sys.argv[1], Path(sys.argv[1]).parent), float(sys.argv[2]))
train = TrainConfig(epochs=1, batch_size=500, learning_rate=0.1)
config = TrialConfig(data="digits", poison_rate=0.05, model=ModelConfig(name="tests.tiny_network:linear"), train=train)
result = run_trial(config, data)
done.set()
names = ("loss/train", "accuracy/clean", "attack_success", "loss/triggered")
print(most, *(repr(result.metrics[name]) for name in names), *result.model.head.weight.flatten().tolist())
"""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells anonymous memory")
def test_40000_images_of_64_pixels_take_little_memory_and_give_the_same_bits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    few, y = rng.integers(0, 200, (400, 64, 64, 3), dtype=np.uint8), np.arange(40_000) % 4
    few[:, :32] += (14 * y[:400, None, None, None]).astype(np.uint8)
    file = tmp_path / "large.npz"
    np.savez(file, x_train=np.tile(few, (100, 1, 1, 1)), y_train=y, x_test=few, y_test=y[:400])
    least, *read = trained(file, 0.5e9)  # converts the set, too
    most, *kept = trained(file, 2e9)
    assert read == kept
    assert least <= 600
    assert most > 600  # a copy with the triggers


def trained(file: Path, room: float) -> list[float]:
    """The peak of anonymous memory in MiB, figures and weights of a trial that may hold `room` bytes of images."""
    done = subprocess.run(
        [sys.executable, "-c", LARGE, str(file), str(room)], capture_output=True, text=True, check=True, timeout=250
    )
    return [float(value) for value in done.stdout.split()]
