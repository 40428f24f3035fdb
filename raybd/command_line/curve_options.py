"""What a person can say to a sweep of learning curves: pairs of classes, learners, C and gamma beside all the rest."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path

from raybd.attacks import Attack, BadNets, describe
from raybd.command_line.options import SweepOptions, distinct
from raybd.convex import LEARNERS
from raybd.data import load
from raybd.data.subset import Subset, parse
from raybd.errors import InputError
from raybd.metrics.learning_curves import LearningCurves
from raybd.plugins import unknown
from raybd.trials.config import ModelConfig, TrialConfig

PAIR = re.compile(r"(\d+)-(\d+)")
NETWORK_OPTIONS = (
    "defences metrics weight_decays widths depths epochs learning_rates batch_sizes optimizer schedule crop flip "
    "beta_mode patience precision probes noise"
).split()


@dataclass(frozen=True, kw_only=True)
class CurveOptions(SweepOptions):
    """Options of `sweeps/learning_curves.py`: every pair x learner x C x gamma x rate x trigger size x seed."""

    name: str = "learning_curves"
    pairs: tuple[str, ...] = ("7-1",)
    """Pairs of classes, as 7-1 (the first is class 0), or all; none: all classes at once, for networks only."""
    models: tuple[str, ...] = ("svm", "logistic", "ridge", "svm_rbf")
    """Convex learners (svm, svm_rbf, logistic, ridge), or networks as in --model."""
    Cs: tuple[float, ...] = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
    """Axis of svm, logistic and ridge: weight of the losses against the penalty."""
    Cs_rbf: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0)
    """Axis of svm_rbf."""
    gammas: tuple[float, ...] = (0.01, 0.1)
    """Axis of svm_rbf."""
    trigger_size: tuple[int, ...] = (2,)
    """Sides of the trigger in pixels; none: what --attacks say."""
    seed_values: tuple[int, ...] = ()
    """The seeds themselves; none: 0, 1, ... as many as --seeds."""
    train_images: int = 0
    """Training images of a pair, the same for every seed; 0: all."""
    recipe: str = "raybd"
    """raybd, or published: images, poison, patches and solvers of arXiv 2106.07214, bit for bit (convex learners)."""
    gpus_per_trial: float | None = 0.0
    """Share of a GPU that a trial holds; convex learners use none."""
    compare: tuple[Path, ...] = ()
    """The authors' result files (CSV) to print differences to."""
    attacks: tuple[str, ...] = ("badnets:learning_curves",)
    labels: str = "all_to_all"
    poison_rates: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2)
    """Poisoned images / training set; 0, the clean twin, is always among them."""
    betas: tuple[float, ...] = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)
    """Weights of the poison: of a convex learner all in one trial, of a network one training each."""

    def problems(self) -> list[str]:
        """Those of every sweep, and what is wrong with pairs, learners and files."""
        found = super().problems() + unknown("recipe", [self.recipe], ("raybd", "published"))
        found += [f"--pairs {p!r} is no pair (allowed: all, or as 7-1)" for p in self.pairs if not _is_pair(p)]
        found += [f"--{axis} needs at least one value" for axis in ("models", "betas") if not getattr(self, axis)]
        needed = {"Cs": set(self.models) & (LEARNERS.keys() - {"svm_rbf"}), "Cs_rbf": {"svm_rbf"} & set(self.models)}
        needed["gammas"] = needed["Cs_rbf"]
        found += [
            f"--{axis.replace('_', '-')} needs a value" for axis, by in needed.items() if by and not getattr(self, axis)
        ]
        if not self.pairs and (convex := [name for name in self.models if name in LEARNERS]):
            found.append(f"{', '.join(convex)} tell two classes apart: --pairs needs at least one")
        if self.train_images < 0 or (self.train_images and not self.pairs):
            found.append(f"--train-images {self.train_images} must be at least 0, and goes with --pairs")
        if self.workers > 1:
            learners = [name for name in self.models if name in LEARNERS]
            found += [
                f"model {name} is solved, not trained: {self.workers} workers cannot share it" for name in learners
            ]
        found += [] if self.model == SweepOptions.model else [f"--model {self.model}: this sweep has --models"]
        found += [f"--compare {path}: there is no such file" for path in self.compare if not path.is_file()]
        return found + self._nothing_to_train()

    def _nothing_to_train(self) -> list[str]:
        """Options of networks where none is asked for: they would be dropped."""
        if set(self.models) - LEARNERS.keys():
            return []
        said = [name for name in NETWORK_OPTIONS if getattr(self, name) != getattr(SweepOptions, name)]
        return [f"--{name.replace('_', '-')} is for networks, and --models names none" for name in said]

    def configs(self) -> list[TrialConfig]:
        """Every trial of the sweep, clean twins first.

        Raises:
            InputError: with everything wrong with the options.
        """
        if found := self.problems():
            raise InputError(found)
        convex = [name for name in distinct(self.models) if name in LEARNERS]
        trials = self._convex(convex)
        for data, model in product(self._data(), [name for name in distinct(self.models) if name not in LEARNERS]):
            trials += replace(self, data=data, model=model)._networks()
        return sorted(trials, key=lambda trial: trial.poison_rate)

    def _convex(self, names: Sequence[str]) -> list[TrialConfig]:
        """The learners of one poisoned set one after another: they share its inner products."""
        learners = [model for name in names for model in self._learners(name)]
        return [
            TrialConfig(
                data=data,
                validation=self.validation,
                attack=attack,
                poison_rate=rate,
                recipe="published" if self.recipe == "published" else "raybd",
                model=model,
                metrics=(LearningCurves(betas=self.betas),),
                seed=seed,
            )
            for rate, data, attack, seed, model in product(
                self._rates(), self._data(), self._attacks(), self._seeds(), learners
            )
        ]

    def _learners(self, name: str) -> list[ModelConfig]:
        if name == "svm_rbf":
            return [ModelConfig(name=name, C=c, gamma=gamma) for gamma, c in product(self.gammas, self.Cs_rbf)]
        return [ModelConfig(name=name, C=c) for c in self.Cs]

    def _networks(self) -> list[TrialConfig]:
        """The trials of a network, as in any other sweep, with its learning curve measured."""
        named = [text for text in self.metrics if not text.startswith("learning_curves")]
        return replace(self, metrics=(*named, "learning_curves"))._trials()

    def _data(self) -> list[str]:
        """The data set's parts, one a pair."""
        whole, part = parse(self.data)
        if not self.pairs:
            return [self.data]
        if part is not None:
            raise InputError(f"--data {self.data} is a part already: give --pairs or a part, not both")
        pairs: list[tuple[int, int]] = []
        for text in self.pairs:
            if text == "all":
                pairs += combinations(range(len(load(whole, self.data_root).classes)), 2)
            elif found := PAIR.fullmatch(text):
                pairs.append((int(found[1]), int(found[2])))
        return [f"{whole}{Subset(pair, self.train_images)}" for pair in distinct(pairs)]

    def _rates(self) -> list[float]:
        return sorted({0.0, *self.poison_rates})

    def _seeds(self) -> Sequence[int]:
        return self.seed_values or super()._seeds()

    def _attacks(self) -> list[Attack]:
        """The attacks at every size, where they have one."""
        found: list[Attack] = []
        for attack in super()._attacks():
            if isinstance(attack, BadNets) and self.trigger_size:
                found += [replace(attack, size=size) for size in self.trigger_size]
            else:
                found.append(attack)
        return list({describe(attack): attack for attack in found}.values())


def _is_pair(text: str) -> bool:
    return text == "all" or PAIR.fullmatch(text) is not None
