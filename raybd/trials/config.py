"""TrialConfig: everything that decides a trial's outcome, and nothing else."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval

from raybd.attacks import ATTACKS, Attack, BadNets, describe
from raybd.data import is_own
from raybd.data.subset import parse as parse_data
from raybd.defences import DEFENCES, Defence, NoDefence
from raybd.metrics import METRICS, Metric
from raybd.plugins import build, name_of, settings_of, spec
from raybd.plugins import describe as describe_plugin
from raybd.plugins.own import target_of
from raybd.scripts import ScriptConfig
from raybd.training import TrainConfig
from raybd.trials.model import ModelConfig
from raybd.types import coerce_floats
from raybd.utils.constraints import Share

__all__ = ["KEY_FORMAT", "ModelConfig", "TrialConfig"]

Contents = tuple[tuple[str, str], ...]  # setting that names a file, hash of what the file holds
# contents: of the modules of a user's function, and of what it builds
MODEL_SOURCE, MODEL_BUILT = "model.name", "model.built"
SCRIPT = "script."  # contents: of the files that a user's commands name,
SCRIPT_FUNCTION = "script.function"  # and of a function that trains, which its caller tells
MODEL_WEIGHTS = "model.weights"  # contents: of the file of pretrained weights
SOURCE = ".source"  # ends the name of a part that is a class of one's own: its code
KEY_FORMAT = 1  # of `TrialConfig.key`; raised when equal settings shall get other keys than before


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """One trial. Two configs with the same key give the same numbers on the same device."""

    data: str = "digits"
    fingerprint: str = ""  # of the data; "" where it is not known yet
    validation: Annotated[float, Interval(ge=0, lt=1)] = 0.0  # share of the training set that is set aside
    attack: Attack = field(default_factory=BadNets)
    poison_rate: Share = 0.05
    recipe: Literal["raybd", "published"] = "raybd"  # published: drawn and solved as arXiv 2106.07214's code does
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    probes: tuple[int, ...] = ()  # epochs to measure at besides the last; (): 1, 2, 3, 4, 8, 16, ...
    metrics: tuple[Metric, ...] = ()  # besides accuracy
    defence: Defence = field(default_factory=NoDefence)
    seed: int = 0
    # side in pixels that images are resized to first; 0: as they are
    resize: Annotated[int, Ge(0)] = field(default=0, metadata={"since": "0.2"})
    contents: Contents = field(default=(), metadata={"since": "0.2"})  # of the files that it draws on, where known
    # a training of the user's own, in the place of model "script"
    script: ScriptConfig | None = field(default=None, metadata={"since": "0.3"})

    def __post_init__(self) -> None:
        coerce_floats(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested JSON types, defaults written out but for options added after the first release."""
        plain: dict[str, Any] = json.loads(json.dumps(self._plain()))
        return plain

    def _plain(self) -> dict[str, Any]:
        contents = {"contents": dict(self.contents)} if self.contents else {}
        script = {"script": self.script.to_dict()} if self.script else {}
        return (
            settings_of(self)
            | contents
            | script
            | {
                "attack": spec(ATTACKS, self.attack),
                "defence": spec(DEFENCES, self.defence),
                "metrics": [spec(METRICS, metric) for metric in self.metrics],
                "model": settings_of(self.model),
                "train": settings_of(self.train),
            }
        )

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "TrialConfig":
        """The config that `to_dict` wrote."""
        parts = dict(plain)
        parts["attack"] = build("attack", ATTACKS, plain["attack"])
        parts["defence"] = build("defence", DEFENCES, plain["defence"])
        parts["model"] = ModelConfig(**plain["model"])
        parts["train"] = TrainConfig(**plain["train"])
        parts["probes"] = tuple(plain["probes"])
        parts["contents"] = tuple(sorted(plain.get("contents", {}).items()))
        parts["script"] = ScriptConfig.from_dict(plain["script"]) if plain.get("script") else None
        parts["metrics"] = tuple(build("metric", METRICS, metric) for metric in plain["metrics"])
        return cls(**parts)

    @cached_property
    def key(self) -> str:
        """The first 16 hex digits of the SHA-256 of the sorted JSON, after the format's version from 2 on.

        A user's own images count by their pixels, and files by their content, not by the paths they happen to lie at.
        """
        plain = self._plain() | self._by_content()
        plain.pop("contents", None)
        if self.script:
            plain["script"] = self.script.identity() | {"files": _part(self.contents, SCRIPT)}
        if self.fingerprint:
            plain["data"] = "own" if is_own(parse_data(self.data)[0]) else self.data.split(":")[0]
        version = "" if KEY_FORMAT == 1 else f"{KEY_FORMAT} "
        text = version + json.dumps(plain, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _by_content(self) -> dict[str, Any]:
        """The parts of `_plain` that name files, with contents in place of names."""
        if not self.contents:
            return {}
        found, model = dict(self.contents), settings_of(self.model)
        if source := found.get(MODEL_SOURCE):
            function = target_of("model", self.model.name) or self.model.name
            model["name"] = f"{source}:{function.partition(':')[2]}"
            model["built"] = found.get(MODEL_BUILT, "")
        if weights := found.get(MODEL_WEIGHTS):
            model["weights"] = weights
        sources = {name.removesuffix(SOURCE): one for name, one in found.items() if name.endswith(SOURCE)}
        attack, defence = _part(self.contents, "attack."), _part(self.contents, "defence.")
        return {
            "attack": spec(ATTACKS, self.attack.by_content(attack)) | _named(sources, "attack"),
            "defence": spec(DEFENCES, self.defence.by_content(defence)) | _named(sources, "defence"),
            "metrics": [
                spec(METRICS, one) | _named(sources, f"metrics.{name_of(METRICS, one)}") for one in self.metrics
            ],
            "model": model,
        } | ({"members": members} if (members := _members(sources)) else {})

    @property
    def image_set(self) -> str:
        """The data set in the size that the trial has it: trials with the same share their images."""
        return f"{self.data} at {self.resize} px" if self.resize else self.data

    @property
    def params(self) -> dict[str, Any]:
        """Every setting by its flattened name, as MLflow and the map know it: attack.name, train.weight_decay, ..."""
        absent, plain = self.model.kind.absent, self.to_dict()
        contents = {f"{name}.content": content for name, content in plain.pop("contents", {}).items()}
        if self.script:
            plain["script"] = self.script.identity()
        return {name: value for name, value in (_flat(plain) | contents).items() if not name.startswith(absent)}

    @property
    def label(self) -> str:
        """A short name for people, for instance "badnets 0.05 small_cnn width=0.5 seed=1"."""
        model = self.model
        defended = "" if isinstance(self.defence, NoDefence) else f"{describe_plugin(DEFENCES, self.defence)} "
        said = self.script.label if self.script else model.kind.describe(model, self.train, self.data)
        said = f"{said} " if said else ""
        return f"{defended}{describe(self.attack)} {self.poison_rate:g} {model.name} {said}seed={self.seed}"


def _part(contents: Contents, start: str) -> dict[str, str]:
    """The contents whose names begin with `start`, by the rest of their names."""
    return {name.removeprefix(start): content for name, content in contents if name.startswith(start)}


def _named(sources: Mapping[str, str], part: str) -> dict[str, str]:
    """The code of a part in place of its name, where it is one of one's own."""
    return {"name": sources[part]} if part in sources else {}


def _members(sources: Mapping[str, str]) -> dict[str, str]:
    """The code of attacks within another, by their places."""
    return {name: one for name, one in sorted(sources.items()) if name.startswith("attack.")}


def _flat(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        if name == "metrics":  # a list of methods: each by its name
            value = {metric["name"]: {k: v for k, v in metric.items() if k != "name"} for metric in value}
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
