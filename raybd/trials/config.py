"""TrialConfig: everything that decides a trial's outcome, and nothing else."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

from raybd.attacks import ATTACKS, Attack, BadNets, NoAttack, describe
from raybd.convex import LEARNERS, Learner
from raybd.data import check_name
from raybd.defences import DEFENCES, Defence, NoDefence
from raybd.errors import InputError
from raybd.metrics import METRICS, Metric
from raybd.models import check_model
from raybd.plugins import build, name_of, settings_of, spec, unknown
from raybd.plugins import describe as describe_plugin
from raybd.training import TrainConfig
from raybd.types import Data, coerce_floats

KEY_FORMAT = 1  # of `TrialConfig.key`; raised when equal settings shall get other keys than before
NETWORK_ONLY = ("train.", "model.width", "model.depth", "model.noise")  # parameters that the other kind has not
CONVEX_ONLY = ("model.C", "model.gamma", "recipe")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network, or which convex learner; each has settings that the other has not."""

    name: str = "small_cnn"
    width: float = 1.0  # multiplies the channels
    depth: int | None = None  # None: the architecture's own
    noise: float = 0.0  # standard deviation of the Gaussian noise after its activations, in training and after
    C: float | None = None  # of a convex learner: weight of its summed losses against |w|^2 / 2
    gamma: float | None = None  # of svm_rbf: exp(-gamma |x - z|^2)

    def __post_init__(self) -> None:
        coerce_floats(self)

    @property
    def convex(self) -> bool:
        """Whether it is a convex learner, which is solved, and no network, which is trained."""
        return self.name in LEARNERS

    def learner(self) -> Learner:
        """The convex learner.

        Raises:
            InputError: its settings make no sense.
        """
        if found := self.problems():
            raise InputError(found)
        given = {"C": self.C, "gamma": self.gamma}
        return LEARNERS[self.name](**{name: value for name, value in given.items() if value is not None})

    def problems(self) -> list[str]:
        """Settings that are missing, of another kind of model, or out of range."""
        if not self.convex:
            given = [name for name in ("C", "gamma") if getattr(self, name) is not None]
            found = [f"model {self.name} has no setting {name} (convex learners have)" for name in given]
            found += [] if 0 < self.width < math.inf else [f"width {self.width:g} must be above 0"]
            known = 0 <= self.noise < math.inf
            return found + ([] if known else [f"noise {self.noise:g} must not be negative, and finite"])
        usual = ModelConfig()
        wrong = [name for name in ("width", "depth", "noise") if getattr(self, name) != getattr(usual, name)]
        found = [f"model {self.name} has no setting {name} (networks have)" for name in wrong]
        for name, wanted in {"C": True, "gamma": self.name == "svm_rbf"}.items():
            value = getattr(self, name)
            if (value is not None) != wanted:
                found.append(f"model {self.name} {'needs' if wanted else 'has no'} setting {name}")
            elif value is not None and not 0 < value < math.inf:
                found.append(f"model {self.name}: {name} = {value:g} must be above 0 and finite")
        return found


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """One trial. Two configs with the same key give the same numbers on the same device."""

    data: str = "digits"
    fingerprint: str = ""  # of the data; "" where it is not known yet
    validation: float = 0.0  # share of the training set that is set aside
    attack: Attack = field(default_factory=BadNets)
    poison_rate: float = 0.05
    recipe: Literal["raybd", "published"] = "raybd"  # published: drawn and solved as arXiv 2106.07214's code does
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    probes: tuple[int, ...] = ()  # epochs to measure at besides the last; (): 1, 2, 3, 4, 8, 16, ...
    metrics: tuple[Metric, ...] = ()  # besides accuracy
    defence: Defence = field(default_factory=NoDefence)
    seed: int = 0

    def __post_init__(self) -> None:
        coerce_floats(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested JSON types, defaults written out but for options added after the first release."""
        plain: dict[str, Any] = json.loads(json.dumps(self._plain()))
        return plain

    def _plain(self) -> dict[str, Any]:
        return settings_of(self) | {
            "attack": spec(ATTACKS, self.attack),
            "defence": spec(DEFENCES, self.defence),
            "metrics": [spec(METRICS, metric) for metric in self.metrics],
            "model": settings_of(self.model),
            "train": settings_of(self.train),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "TrialConfig":
        """The config that `to_dict` wrote."""
        parts = dict(plain)
        parts["attack"] = build("attack", ATTACKS, plain["attack"])
        parts["defence"] = build("defence", DEFENCES, plain["defence"])
        parts["model"] = ModelConfig(**plain["model"])
        parts["train"] = TrainConfig(**plain["train"])
        parts["probes"] = tuple(plain["probes"])
        parts["metrics"] = tuple(build("metric", METRICS, metric) for metric in plain["metrics"])
        return cls(**parts)

    @cached_property
    def key(self) -> str:
        """The first 16 hex digits of the SHA-256 of the sorted JSON, after the format's version from 2 on.

        A user's own images count by their pixels, not by the path they happen to lie at.
        """
        plain = self._plain()
        if self.fingerprint:
            plain["data"] = self.data.split(":")[0]
        version = "" if KEY_FORMAT == 1 else f"{KEY_FORMAT} "
        text = version + json.dumps(plain, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def params(self) -> dict[str, Any]:
        """Every setting by its flattened name, as MLflow and the map know it: attack.name, train.weight_decay, ..."""
        silent = NETWORK_ONLY if self.model.convex else CONVEX_ONLY
        return {name: value for name, value in _flat(self.to_dict()).items() if not name.startswith(silent)}

    @property
    def label(self) -> str:
        """A short name for people, for instance "badnets 0.05 width=0.5 seed=1"."""
        train, model = self.train, self.model
        if model.convex:
            said = f"{describe(self.attack)} {self.poison_rate:g} {model.name} C={model.C:g}"
            return f"{said}{'' if model.gamma is None else f' gamma={model.gamma:g}'} {self.data} seed={self.seed}"
        defended = "" if isinstance(self.defence, NoDefence) else f"{describe_plugin(DEFENCES, self.defence)} "
        return (
            f"{defended}{describe(self.attack)} {self.poison_rate:g} {model.name} width={model.width:g} "
            f"wd={train.weight_decay:g} lr={train.learning_rate:g} epochs={train.epochs} "
            f"{f'beta={train.beta:g} ' if train.weighted else ''}"
            f"{f'workers={train.workers} ' if train.workers > 1 else ''}seed={self.seed}"
        )

    def problems(self) -> list[str]:
        """Everything wrong with this config that can be told without its data."""
        found = check_name(self.data)
        found += [] if 0 <= self.validation < 1 else [f"validation {self.validation:g} is not in [0, 1)"]
        found += [] if 0 <= self.poison_rate <= 1 else [f"poison rate {self.poison_rate:g} is not in [0, 1]"]
        if isinstance(self.attack, NoAttack) and self.poison_rate:
            found.append(f"attack none cannot poison: its rate must be 0, not {self.poison_rate:g}")
        found += self.model.problems() + self._recipe_problems() + self._clean_problems()
        found += self._network_settings() if self.model.convex else []
        names = [name_of(METRICS, metric) for metric in self.metrics]
        found += [f"metric {name} is asked for twice" for name in dict.fromkeys(names) if names.count(name) > 1]
        if self.train.patience and any(metric.needs_twin for metric in self.metrics):
            comparing = [name for name, metric in zip(names, self.metrics, strict=True) if metric.needs_twin]
            found.append(f"patience would part a trial from its clean twin, and {', '.join(comparing)} compare them")
        last = self.train.epochs
        found += [f"probe epoch {p} is not among the epochs 1 to {last}" for p in self.probes if not 1 <= p <= last]
        return found + _train_problems(self.train) + self._beta_problems()

    def team_problems(self, workers: int) -> list[str]:
        """Why `workers` cannot train together: one would work, and the others wait."""
        if workers == 1 or (self.defence.parallel and not self.model.convex):
            return []
        defence = spec(DEFENCES, self.defence)["name"]
        what = f"model {self.model.name}" if self.model.convex else f"defence {defence}"
        return [f"{what} has no training that {workers} GPUs could share: give its trials one, or a part of one"]

    def _beta_problems(self) -> list[str]:
        """Why poison cannot be weighted as the training asks for."""
        train, found = self.train, []
        if not 0 <= train.beta <= 1:
            found.append(f"beta {train.beta:g} is no weight of poison (allowed: 0 to 1)")
        if not train.weighted:
            return found
        if not 0 < self.poison_rate < 1:
            found.append(f"at poison rate {self.poison_rate:g} beta weighs nothing: it must be 1, in mode sample")
        if not isinstance(self.defence, NoDefence):
            found.append("a training that weighs poison by beta cannot have a defence")
        if any(member.attack.renewed() for member in self.attack.members()):
            found.append("an attack that poisons other images in every epoch cannot be weighted by beta")
        return found

    def _clean_problems(self) -> list[str]:
        """Why the defence would not get the clean images that it needs."""
        wanted, given = self.defence.clean_share, self.validation
        if self.defence.access != "clean images" or (given > 0 and given >= wanted):
            return []
        name = spec(DEFENCES, self.defence)["name"]
        least = f"at least {wanted:g}, its share of clean images" if wanted else "above 0"
        return [f"defence {name} needs clean images: validation must be {least}, got {given:g}"]

    def _recipe_problems(self) -> list[str]:
        """What the recipe does not go with."""
        found = unknown("recipe", [self.recipe], ("raybd", "published"))
        if self.recipe == "published":
            found += [] if self.model.convex else [f"recipe published is for convex learners ({', '.join(LEARNERS)})"]
            found += ["recipe published sets no validation images aside"] if self.validation else []
            patches = BadNets(size=getattr(self.attack, "size", None), pattern="per_class", labels="all_to_all")
            if self.attack != patches:
                found.append(
                    "recipe published has one trigger: badnets with pattern per_class, labels all_to_all, a size"
                )
        return found

    def _network_settings(self) -> list[str]:
        """Settings that would be told from each other by the key, and change nothing."""
        wrong = [f.name for f in fields(TrainConfig) if getattr(self.train, f.name) != getattr(TrainConfig(), f.name)]
        found = [f"model {self.model.name} is solved, not trained: leave train.{name} alone" for name in wrong]
        found += [f"model {self.model.name} has no epochs to probe"] * bool(self.probes)
        if not isinstance(self.defence, NoDefence):
            found.append(f"model {self.model.name} has no training that a defence could take over")
        names = [name_of(METRICS, metric) for metric in self.metrics]
        looking = [name for name in names if name not in ("accuracy", "learning_curves")]
        return found + [f"metric {name} measures networks, and {self.model.name} is none" for name in looking]

    def data_problems(self, data: Data) -> list[str]:
        """Everything wrong with this config on `data`, but for the poison rate."""
        model, shape, classes = self.model, data.train.shape, len(data.classes)
        found = self.attack.check(shape, classes)
        if model.convex and classes != 2:
            pairs = "a pair is named as in digits[7,1]"
            found.append(f"model {model.name} tells two classes apart, and {data.name} has {classes} ({pairs})")
        elif not model.convex:
            found += check_model(model.name, shape, classes, model.width, model.depth, model.noise)
        found += self.defence.problems(shape, classes)
        counted = sum(int(member.attack.measured(data.test.y).sum()) for member in self.attack.members())
        found += [
            f"{spec(METRICS, metric)['name']}: {metric.min_triggered} points are asked for, and the success of "
            f"{describe(self.attack)} counts {counted} test images"
            for metric in self.metrics
            if metric.min_triggered > counted
        ]
        return found + [problem for metric in self.metrics for problem in metric.problems(data, model.noise)]


def _train_problems(train: TrainConfig) -> list[str]:
    at_least = {"epochs": 1, "batch_size": 2, "crop": 0, "patience": 0, "workers": 1}
    found = [
        f"{name} {getattr(train, name)} must be at least {least}"
        for name, least in at_least.items()
        if getattr(train, name) < least
    ]
    if not 0 < train.learning_rate < math.inf:
        found.append(f"learning rate {train.learning_rate:g} must be above 0 and finite")
    if not 0 <= train.weight_decay < math.inf:
        found.append(f"weight decay {train.weight_decay:g} must not be negative, and finite")
    found += [] if 0 <= train.momentum < 1 else [f"momentum {train.momentum:g} is not in [0, 1)"]
    found += [] if 0 <= train.label_smoothing < 1 else [f"label smoothing {train.label_smoothing:g} is not in [0, 1)"]
    if train.batch_size < 2 * train.workers:  # batch norm cannot take a lone image
        found.append(f"batch size {train.batch_size} is too small for {train.workers} workers: each needs 2 images")
    if train.sync_batch_norm and train.workers == 1:
        found.append("sync_batch_norm needs several workers")
    for name, allowed in {
        "optimizer": ("sgd", "adamw"),
        "schedule": ("one_cycle", "cosine", "constant"),
        "precision": ("auto", "fp32", "bf16"),
        "beta_mode": ("sample", "batchmean"),
        "memory_format": ("contiguous", "channels_last"),
    }.items():
        found += unknown(name, [getattr(train, name)], allowed)
    return found


def _flat(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        if name == "metrics":  # a list of methods: each by its name
            value = {metric["name"]: {k: v for k, v in metric.items() if k != "name"} for metric in value}
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
