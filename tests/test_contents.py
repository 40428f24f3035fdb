"""Content of the files that a trial draws on: it makes the key, paths do not, and workers must meet the same."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from analysis import DefendedRegionMap
from raybd.attacks import NoAttack, parse
from raybd.data import load
from raybd.defences import NoDefence
from raybd.errors import InputError
from raybd.execution.search import Search
from raybd.models import build_model
from raybd.pretraining import PretrainConfig
from raybd.pretraining.encoder_cache import encoder_key
from raybd.training import TrainConfig
from raybd.trials.base import TrialSession
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.run import run_checked
from raybd.trials.twins import twin_of
from raybd.trials.validate import prepare
from raybd.types import Data

SET = "digits[0,1;60]"
SHORT = TrainConfig(epochs=1)
NET = """
import torch
from torch import nn
from raybd.models import Classifier
from helper import features_of

class Net(Classifier):
    def __init__(self, shape, classes):
        super().__init__((0.0,), (1.0,))
        self.body = nn.Linear(shape[1] * shape[2], 8)
        self.head = nn.Linear(8, classes)

    def features(self, x):
        return features_of(self.body(x.flatten(1)))

def net(shape, classes):
    return Net(shape, classes)

def pretrained(shape, classes):
    network = Net(shape, classes)
    network.body.load_state_dict(torch.load("weights.pt"))
    return network
"""


@pytest.fixture
def data() -> Data:
    return load(SET)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """A folder with the modules mine and helper, and the weights that one function reads; call it to forget them."""

    def forget() -> None:
        for name in ("mine", "helper", "other", "pixels"):
            sys.modules.pop(name, None)

    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two versions within a second are one to its cache
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("mine.py").write_text(NET)
    Path("helper.py").write_text("features_of = lambda x: x.relu()")
    _save_weights(0.5)
    forget()
    yield forget
    forget()


def _save_weights(value: float) -> None:
    torch.save({"weight": torch.full((8, 64), value), "bias": torch.zeros(8)}, "weights.pt")


def _key(**settings: object) -> str:
    config = TrialConfig(data=SET, train=SHORT, **settings)  # type: ignore[arg-type]
    return prepare([config])[0][0].key


def _picture(path: Path, colour: int) -> str:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(path)
    return str(path)


@pytest.mark.parametrize("text", ["blended:image={}", 'multi:attacks=["badnets","blended:alpha=0.3,image={}"]'])
def test_a_picture_counts_by_its_content_and_not_by_its_path(tmp_path: Path, text: str) -> None:
    shades = {"r.png": 1, "s/m.png": 1, "o.png": 2}
    red, same, other = (_picture(tmp_path / name, shade) for name, shade in shades.items())

    def key(picture: str) -> str:
        return _key(attack=parse(text.replace("{}", picture)), poison_rate=0.1)

    before = key(red)
    assert key(same) == before != key(other)
    _picture(tmp_path / "r.png", 2)
    assert key(red) == key(other) != before


def test_a_trial_without_files_has_the_key_it_had_before() -> None:
    config = TrialConfig(data=SET, train=SHORT)
    assert _key() == replace(config, fingerprint=load(SET).fingerprint).key
    assert "contents" not in prepare([config])[0][0].to_dict()


def test_contents_survive_the_way_to_a_worker_and_are_parameters(tmp_path: Path) -> None:
    picture = _picture(tmp_path / "t.png", 1)
    config = prepare([TrialConfig(data=SET, attack=parse(f"blended:image={picture}"))])[0][0]
    assert TrialConfig.from_dict(config.to_dict()) == config
    assert TrialConfig.from_dict(config.to_dict()).key == config.key
    assert config.params["attack.image"] == picture
    assert config.params["attack.image.content"] == dict(config.contents)["attack.image"]
    assert twin_of(config).key == twin_of(replace(config, attack=NoAttack(), contents=())).key


def test_a_user_s_network_counts_by_its_modules_and_what_it_reads(modules: Callable[[], None]) -> None:
    model = ModelConfig(name="mine:pretrained")
    before = _key(model=model)
    modules()
    assert _key(model=model) == before
    Path("other.py").write_text(NET)
    assert _key(model=ModelConfig(name="other:pretrained")) == before != _key(model=ModelConfig(name="mine:net"))
    _save_weights(0.25)
    with_weights = _key(model=model)
    modules()
    Path("helper.py").write_text("features_of = lambda x: x.sigmoid()")
    with_helper = _key(model=model)
    modules()
    Path("mine.py").write_text(NET + "# changed")
    assert len({before, with_weights, with_helper, _key(model=model)}) == 4


def test_a_function_that_a_frozen_backbone_names_counts_too(modules: Callable[[], None]) -> None:
    Path("other.py").write_text(
        "from raybd.pretraining import FrozenBackbone\n"
        "def frozen(shape, classes):\n    return FrozenBackbone('pixels:features', shape, classes)\n"
    )
    keys = []
    for scale in (1.0, 1.0, 2.0):
        modules()
        Path("pixels.py").write_text(f"def features(x):\n    return x.flatten(1).float() * {scale}\n")
        keys.append(_key(model=ModelConfig(name="other:frozen")))
    assert keys[0] == keys[1] != keys[2]


def test_a_search_asks_the_same_of_a_picture_that_was_moved(tmp_path: Path) -> None:
    def question(path: str) -> dict[str, list[str]]:
        cases = prepare([TrialConfig(data=SET, attack=parse(f"blended:image={path}"), poison_rate=0.1)])[0]
        given = {"space": lambda _: {}, "evaluate": lambda *_: {}, "goals": {}, "first": {}}
        return Search(name="s", base=NoDefence(), cases=cases, trials=1, storage="", **given).question  # type: ignore[arg-type]

    red, moved, other = (
        _picture(tmp_path / name, shade) for name, shade in {"r.png": 1, "m.png": 1, "o.png": 2}.items()
    )
    assert question(red) == question(moved) != question(other)


@pytest.mark.usefixtures("modules")
def test_a_module_that_changes_after_its_import_is_refused() -> None:
    _key(model=ModelConfig(name="mine:net"))
    Path("helper.py").write_text("features_of = lambda x: x.sigmoid()")
    with pytest.raises(InputError, match=r"mine has changed since this process imported it \(.*helper\.py"):
        _key(model=ModelConfig(name="mine:net"))


@pytest.mark.usefixtures("modules")
def test_a_worker_that_meets_other_files_says_which(tmp_path: Path, data: Data) -> None:
    picture = _picture(tmp_path / "t.png", 1)
    attack, model = parse(f"blended:image={picture}"), ModelConfig(name="mine:pretrained")
    [config], _ = prepare([TrialConfig(data=data.name, attack=attack, model=model, train=SHORT)])
    assert run_checked(config, data, TrialSession()).metrics["attack_success"] >= 0
    _picture(tmp_path / "t.png", 2)
    _save_weights(0.25)
    with pytest.raises(InputError) as caught:
        run_checked(config, data, TrialSession())
    assert caught.value.problems == [
        f"{picture} has changed since the trial was planned (attack.image)",
        "what mine:pretrained reads when it is built has changed since the trial was planned (model.built)",
    ]
    with pytest.raises(InputError, match=r"t\.png has changed since"):
        prepare([config])
    Path(picture).unlink()
    with pytest.raises(InputError, match=r"there is no file at .*t\.png"):
        run_checked(config, data, TrialSession())


def test_a_picture_that_changes_while_the_trial_runs_is_told(tmp_path: Path, data: Data) -> None:
    attack = parse(f"blended:image={_picture(tmp_path / 't.png', 1)}")
    [config], _ = prepare([TrialConfig(data=data.name, attack=attack, train=SHORT)])

    def replaced(_: object) -> None:
        _picture(tmp_path / "t.png", 2)

    with pytest.raises(InputError, match=r"t\.png has changed since"):
        run_checked(config, data, TrialSession(report=replaced))


def test_an_encoder_counts_by_the_code_of_its_network(modules: Callable[[], None]) -> None:
    def key() -> str:
        torch.manual_seed(0)
        network = build_model("mine:net", (1, 8, 8), 2, [0.0], [1.0])
        return encoder_key(network, torch.zeros(2, 1, 8, 8, dtype=torch.uint8), PretrainConfig(), 0)  # type: ignore[arg-type]

    before = key()
    modules()
    assert key() == before
    modules()
    Path("helper.py").write_text("features_of = lambda x: x.sigmoid()")
    assert key() != before


def test_a_picture_has_its_first_name_on_the_map_and_two_contents_are_two_settings() -> None:
    rows = [
        {"attack.image": path, "attack.image.content": content, "seed": seed, "start_time": seed}
        for path, content, seed in (("a.png", "c1", 0), ("b.png", "c1", 1), ("a.png", "c2", 2))
    ]
    frame = pd.DataFrame(rows).assign(
        **{"attack.name": "blended", "poison_rate": 0.1, "clean_accuracy": 0.9, "attack_success": 0.9}
    )
    table = DefendedRegionMap.from_frame(frame).to_frame()
    assert len(table) == 2
    assert sorted(table["seeds"]) == [1, 2]
