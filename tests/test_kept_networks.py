"""Networks that a sweep keeps: the bits that were measured, in MLflow's format, for anybody; and files of networks."""

import json
import pickle
import subprocess
import sys
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow.pytorch
import pytest
import torch
from torch import Tensor, nn

from raybd.cli import main
from raybd.command_line.kept_networks import sizes_text, told_of_networks
from raybd.errors import InputError
from raybd.execution.plan import plan_sweep
from raybd.execution.sweep import sweep
from raybd.models import build_model
from raybd.models.network_files import (
    export_network,
    kind_of_file,
    read_network,
    read_program,
    read_state_dict,
    write_program,
)
from raybd.tracking import load_record, load_runs
from raybd.tracking.networks import network_of_run, save_network
from raybd.tracking.store import Store
from raybd.tracking.uploads import upload
from raybd.training import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.records import SweepFolder, TrialFolder
from raybd.trials.run import run_trial
from raybd.types import Data

TINY = TrialConfig(train=TrainConfig(epochs=3), model=ModelConfig(width=0.25), poison_rate=0.1)
NOISY = replace(TINY, model=ModelConfig(width=0.25, noise=0.2), train=TrainConfig(epochs=1))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sweeps `all`, `last` and `none`, each of one trial."""
    made = tmp_path_factory.mktemp("kept")
    for which in ("all", "last", "none"):
        configs = [TINY] if which != "last" else [TINY, NOISY]
        sweep(configs, which, results=made / "results", tracking_uri=f"sqlite:///{made}/store.db", keep_models=which)
    return made


@pytest.fixture(scope="module")
def uri(root: Path) -> str:
    return f"sqlite:///{root}/store.db"


@pytest.fixture(scope="module")
def trained(digits: Data) -> nn.Module:
    return run_trial(TINY, digits).model.eval()


def run_of(name: str, uri: str, config: TrialConfig = TINY) -> str:
    runs = load_runs(name, uri)
    return str(runs[runs["tags.raybd.key"].str.startswith(key_of(config, uri, name))]["run_id"].iloc[0])


def key_of(config: TrialConfig, uri: str, name: str) -> str:
    noise = config.model.noise
    runs = load_runs(name, uri)
    return str(runs[runs["params.model.noise"].astype(float) == noise]["tags.raybd.key"].iloc[0])


def images(digits: Data) -> Tensor:
    return digits.test.x[:50].float() / 255


@torch.no_grad()
def logits(network: nn.Module, x: Tensor) -> Tensor:
    torch.manual_seed(0)
    found: Tensor = network(x)
    return found


def test_the_kept_network_has_the_bits_of_the_trained_one(
    uri: str, trained: nn.Module, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")  # it holds no pickle
    x = images(digits)
    for name in ("all", "last"):
        loaded = mlflow.pytorch.load_model(f"runs:/{run_of(name, uri)}/model")
        assert torch.equal(logits(loaded, x), logits(trained, x))
        assert len(logits(loaded, x[:1])) == 1  # of any number of images
    for epoch in (1, 2):
        earlier = mlflow.pytorch.load_model(f"runs:/{run_of('all', uri)}/models/epoch_{epoch}")
        assert not torch.equal(logits(earlier, x), logits(trained, x))
        accuracy = float((logits(earlier, digits.test.x.float() / 255).argmax(1) == digits.test.y).float().mean())
        folder = SweepFolder.find(Path(uri.removeprefix("sqlite:///")).parent / "results", "all")
        assert folder is not None
        measured = folder.trial(load_record(run_of("all", uri), uri).key).history()[epoch - 1]["metrics"]
        assert accuracy == pytest.approx(measured["accuracy/clean"], abs=1e-6)


def test_keeping_changes_no_number_and_no_key(uri: str) -> None:
    records = [load_record(run_of(name, uri), uri) for name in ("all", "last", "none")]
    timeless = [{k: v for k, v in one.metrics.items() if not k.startswith("seconds")} for one in records]
    assert timeless[0] == timeless[1] == timeless[2]
    assert len({one.key for one in records}) == 1
    tags = [one.tags.get("raybd.kept_epochs") for one in records]
    assert tags == ["1,2,3", "3", None]


def test_the_signature_says_what_goes_in_and_out(uri: str) -> None:
    with network_of_run(run_of("last", uri), uri) as folder:
        signature = mlflow.models.Model.load(str(folder)).signature
    assert signature.inputs.inputs[0].shape == (-1, 1, 8, 8)
    assert signature.outputs.inputs[0].shape == (-1, 10)


def test_who_has_no_raybd_loads_it(uri: str, root: Path, trained: nn.Module, digits: Data) -> None:
    code = """
import sys
for name in ("raybd", "analysis", "sweeps"):
    sys.modules[name] = None  # an import of it fails
import mlflow, torch
mlflow.set_tracking_uri(sys.argv[1])
network = mlflow.pytorch.load_model(f"runs:/{sys.argv[2]}/model")
torch.set_num_threads(1)
with torch.no_grad():
    torch.save(network(torch.load(sys.argv[3])), sys.argv[4])
"""
    given, made = root / "x.pt", root / "logits.pt"
    torch.save(images(digits), given)
    subprocess.run([sys.executable, "-c", code, uri, run_of("last", uri), str(given), str(made)], check=True, cwd=root)
    assert torch.equal(torch.load(made), logits(trained, images(digits)))


def test_a_network_with_noise_draws_it_as_it_did(uri: str, digits: Data) -> None:
    expected = run_trial(NOISY, digits).model.eval()
    with network_of_run(run_of("last", uri, NOISY), uri) as folder:
        program = read_program(folder / "data" / "model.pt2")
    x = images(digits)
    assert torch.equal(logits(program.module(), x), logits(expected, x))
    assert not torch.equal(program.module()(x), program.module()(x))


def test_a_store_that_was_lost_gets_the_networks_again(root: Path, uri: str) -> None:
    record = load_record(run_of("all", uri), uri)
    folder = SweepFolder.of(root / "results", "all").trial(record.key)
    upload(Store.open("again", uri).address, folder, record)  # to the folder this is a store without the trial
    with network_of_run(run_of("again", uri), uri, 2) as again, network_of_run(run_of("all", uri), uri, 2) as first:
        weights = [read_program(one / "data" / "model.pt2").state_dict for one in (again, first)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_an_attempt_that_resumes_deletes_later_networks(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path)
    for epoch in (1, 2, 10):
        (folder.networks / str(epoch)).mkdir(parents=True)
    (folder.networks / "3.abc.part").mkdir()
    assert list(folder.kept_networks) == [1, 2, 10]
    folder.start(2)
    assert list(folder.kept_networks) == [1, 2]


def test_finished_trials_without_networks_are_told_of(root: Path, uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name, which, said in (("none", "last", 1), ("last", "last", 0), ("last", "all", 1), ("all", "last", 0)):
        plan = plan_sweep(name, [TINY], root / "results", uri)
        assert plan.todo == []
        text = told_of_networks(which, plan)  # type: ignore[arg-type]
        assert text.count("none is trained again for that") == said
        assert (run_of(name, uri) in text) == bool(said)
    args = "--attacks badnets --poison-rates 0.1 --seeds 1 --epochs 3 --widths 0.25 --weight-decays 5e-4 --noise 0"
    where = ["--tracking-uri", uri, "--results", str(root / "results"), "--name", "other", "--inline"]
    assert main(["sweep", "ib", *args.split(), "--metrics", "stealth", *where, "--keep-models", "last"]) == 0
    assert "--keep-models last: 1 networks of 1 trials, about" in capsys.readouterr().out


@pytest.mark.parametrize("model", [ModelConfig(width=2.0), ModelConfig(name="resnet18", width=0.25)])
def test_the_size_is_told_beforehand(model: ModelConfig, digits: Data, tmp_path: Path) -> None:
    from raybd.command_line import kept_networks

    config = replace(TINY, model=model)
    told = kept_networks._bytes(config, digits)
    save_network(build_model(model.name, (1, 8, 8), 10, [0.5], [0.3], width=model.width), (1, 8, 8), 10, tmp_path / "n")
    real = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert told == pytest.approx(real, rel=0.12)
    text = sizes_text("all", [config, replace(config, poison_rate=0.0)], {config.image_set: digits})
    assert text.startswith("--keep-models all: 6 networks of 2 trials, about ")  # epochs 1, 2 and 3 of each
    assert sizes_text("none", [config], {config.image_set: digits}) == ""


class Branching(nn.Module):
    """A network that PyTorch cannot export: what it computes depends on the images."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(x.flatten(1))
        return found if float(x.sum()) > 0 else -found


def test_what_cannot_be_exported_is_pickled_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = Branching()
    save_network(network, (1, 8, 8), 10, tmp_path / "kept")
    assert "cannot be exported" in caplog.text
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(mlflow.pytorch.load_model(str(tmp_path / "kept"))(x), network(x))
    assert network.head.weight.requires_grad  # the network itself is as it was
    assert network.training
    with pytest.raises(InputError, match="cannot be exported"):
        export_network(network, (1, 8, 8))


def run(*args: str) -> int:
    return main(list(args))


def test_raybd_model_writes_weights_and_programs(
    uri: str, tmp_path: Path, trained: nn.Module, digits: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    id_, store = run_of("all", uri), ("--tracking-uri", uri)
    assert run("model", id_, "--out", str(tmp_path / "x.pt"), *store) == 0
    assert run("model", id_, "--out", str(tmp_path / "x.pt2"), "--epoch", "2", *store) == 0
    weights = read_state_dict(tmp_path / "x.pt")
    assert weights.keys() == trained.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in trained.state_dict().items())
    rebuilt = build_model("small_cnn", (1, 8, 8), 10, [0.0], [1.0], width=0.25)
    rebuilt.load_state_dict(torch.load(tmp_path / "x.pt", weights_only=True))
    x = images(digits)
    assert torch.allclose(logits(rebuilt.eval(), x), logits(trained, x), atol=1e-5)
    assert not torch.equal(logits(read_network(tmp_path / "x.pt2"), x), logits(trained, x))  # of epoch 2
    assert "torch.export.load(" in capsys.readouterr().out


def test_raybd_model_trains_again_only_where_it_is_asked_to(
    uri: str, tmp_path: Path, trained: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    id_, out = run_of("none", uri), tmp_path / "x.pt"
    assert run("model", id_, "--out", str(out), "--tracking-uri", uri) == 2
    assert "--retrain trains it again" in capsys.readouterr().err
    assert not out.exists()
    assert run("model", id_, "--out", str(out), "--tracking-uri", uri, "--retrain") == 0
    assert "all equal, to the last bit" in capsys.readouterr().out
    weights = read_state_dict(out)
    assert all(torch.equal(weights[name], value) for name, value in trained.state_dict().items())


def test_raybd_model_refuses_what_it_cannot_write(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    id_ = run_of("all", uri)
    for more, said in (
        (("--out", "x.h5"), "must end in one of .pt, .pt2, .onnx"),
        (("--out", str(tmp_path / "no" / "x.pt")), "there is no folder"),
        (("--out", str(tmp_path / "x.onnx")), "pip install 'raybd[onnx]'"),
        (("--out", str(tmp_path / "x.pt"), "--epoch", "7"), "no network of epoch 7 (kept: 1, 2, 3)"),
        (("--out", str(tmp_path / "x.pt"), "--epoch", "1", "--retrain"), "leave --epoch out"),
    ):
        assert run("model", id_, *more, "--tracking-uri", uri) == 2
        assert said in capsys.readouterr().err
    assert run("model", "none_such", "--out", str(tmp_path / "x.pt"), "--tracking-uri", uri) == 2


def test_onnx_gives_the_same_logits(tmp_path: Path, trained: nn.Module, digits: Data) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out, x = tmp_path / "x.onnx", images(digits)
    write_program(export_network(trained, (1, 8, 8)), out)
    assert torch.allclose(logits(read_network(out), x), logits(trained, x), atol=1e-4)
    assert kind_of_file(out) == "onnx"


def hostile(source: Path, target: Path, change: dict[str, Any], more: dict[str, bytes] | None = None) -> Path:
    """A copy of the program `source` whose graph has `change`: what it replaces by what; and `more` records."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as made:
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith("models/model.json"):
                text = content.decode()
                for old, new in change.items():
                    assert old in text
                    text = text.replace(old, new, 1)
                json.loads(text)
                content = text.encode()
            made.writestr(name, content)
        for name, content in (more or {}).items():
            made.writestr(f"{archive.namelist()[0].partition('/')[0]}/{name}", content)
    return target


PICKLE = pickle.dumps(print, protocol=2)  # names a function to import


@pytest.mark.parametrize(
    ("change", "more", "said"),
    [
        ({"torch.ops.aten.linear.default": "torch.hub.load"}, {}, "the operation torch.hub.load"),
        ({"torch.ops.aten.linear.default": "torch.ops.aten.from_file.default"}, {}, "the operation torch.ops.aten.fr"),
        ({"Symbol('s": "__import__('os').system('true') or Symbol('s"}, {}, "the expression __import__"),
        ({'"guards_code": []': '"guards_code": ["__import__(1)"]'}, {}, "the expression __import__(1)"),
        ({}, {"data/constants/custom_obj_0": PICKLE}, "the record"),
    ],
)
def test_a_program_that_would_run_code_is_refused(
    tmp_path: Path, trained: nn.Module, change: dict[str, str], more: dict[str, bytes], said: str
) -> None:
    write_program(export_network(trained, (1, 8, 8)), tmp_path / "x.pt2")
    read_program(tmp_path / "x.pt2")
    bad = hostile(tmp_path / "x.pt2", tmp_path / "bad.pt2", change, more)
    with pytest.raises(InputError, match="reading that could run code") as error:
        read_program(bad)
    assert said in str(error.value)


class Opens:
    """A pickled object that makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickled_network_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1)}, "more": Opens(tmp_path / "ran")}, tmp_path / "bad.pt")
    with pytest.raises(InputError, match="would run code when it is read"):
        read_state_dict(tmp_path / "bad.pt")
    assert not (tmp_path / "ran").exists()


def test_weights_are_found_in_checkpoints_and_of_parallel_training(tmp_path: Path) -> None:
    weights = {"module.head.weight": torch.rand(2, 3), "module.head.bias": torch.rand(2)}
    torch.save({"epoch": 3, "state_dict": weights}, tmp_path / "x.pt")
    assert {name: value.shape for name, value in read_state_dict(tmp_path / "x.pt").items()} == {
        "head.weight": (2, 3),
        "head.bias": (2,),
    }
    torch.save({"epoch": 3}, tmp_path / "y.pt")
    with pytest.raises(InputError, match="holds no state dictionary"):
        read_state_dict(tmp_path / "y.pt")
    with pytest.raises(InputError, match="there is no file at"):
        kind_of_file(tmp_path / "z.pt")


def test_torchscript_is_read(tmp_path: Path, trained: nn.Module, digits: Data) -> None:
    x = images(digits)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit")  # is deprecated, and is read all the same
        torch.jit.save(torch.jit.trace(trained, x), tmp_path / "x.pt")
    assert kind_of_file(tmp_path / "x.pt") == "torchscript"
    assert torch.allclose(logits(read_network(tmp_path / "x.pt"), x), logits(trained, x), atol=1e-5)
    assert read_state_dict(tmp_path / "x.pt").keys() == trained.state_dict().keys()
