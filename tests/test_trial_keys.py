"""Keys of trials: those of the first release hold, and an option added later changes none that does not use it."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from raybd.attacks import ATTACKS, BadNets, describe, parse
from raybd.training import TrainConfig
from raybd.trials import config as config_module
from raybd.trials.config import TrialConfig

FIRST_RELEASE: list[dict[str, Any]] = json.loads((Path(__file__).parent / "fixtures" / "keys.json").read_text())


@dataclass(frozen=True, kw_only=True)
class LaterTrain(TrainConfig):
    """A training with an option of a later release."""

    workers: int = field(default=1, metadata={"since": "0.2"})


@dataclass(frozen=True, kw_only=True)
class LaterBadNets(BadNets):
    """An attack with an option of a later release."""

    shade: float = field(default=1.0, metadata={"since": "0.2"})


@pytest.mark.parametrize("kept", FIRST_RELEASE, ids=lambda kept: str(kept["key"]))
def test_configs_of_the_first_release_keep_their_keys_and_settings(kept: dict[str, Any]) -> None:
    config = TrialConfig.from_dict(kept["config"])
    assert config.key == kept["key"]
    assert config.to_dict() == kept["config"]
    assert len(config.params) == kept["params"]


def test_later_option_of_training_enters_the_key_only_where_it_is_used() -> None:
    config = TrialConfig()
    unused, used = (replace(config, train=LaterTrain(workers=workers)) for workers in (1, 2))
    assert unused.key == config.key
    assert unused.to_dict() == config.to_dict()
    assert unused.params == config.params
    assert used.key != config.key
    assert used.to_dict()["train"]["workers"] == 2
    assert used.params["train.workers"] == 2


def test_later_option_of_an_attack_enters_the_key_only_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    before = TrialConfig().key
    monkeypatch.setitem(ATTACKS, "badnets", LaterBadNets)
    unused, used = parse("badnets:shade=1"), parse("badnets:shade=0.5")
    assert TrialConfig(attack=unused).key == before
    assert describe(unused) == "badnets"
    assert describe(used) == "badnets:shade=0.5"
    again = TrialConfig.from_dict(TrialConfig(attack=used).to_dict())
    assert again.attack == used
    assert again.key == TrialConfig(attack=used).key != before


def test_later_key_format_is_the_prefix_of_the_hashed_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_module, "KEY_FORMAT", 2)
    config = TrialConfig()
    text = "2 " + json.dumps(config.to_dict(), sort_keys=True)
    assert config.key == hashlib.sha256(text.encode()).hexdigest()[:16] != FIRST_RELEASE[0]["key"]
