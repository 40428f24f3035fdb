"""Options of `sweeps/learning_curves.py`: pairs of classes, learners, C and gamma beside those of every sweep."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, MinLen

from raybd.command_line.groups import AttackOptions, ExecutionOptions, OptionGroup, TrainingOptions
from raybd.command_line.options import SweepOptions
from raybd.convex import LEARNERS
from raybd.plugins import unknown
from raybd.utils.constraints import Positive, flag

PAIR = re.compile(r".+-.+")
RECIPES = ("raybd", "published")
NETWORK_OPTIONS = (
    "defences metrics weight_decays widths depths epochs learning_rates batch_sizes optimizer schedule crop flip "
    "beta_mode patience precision deterministic probes noise"
).split()


@dataclass(frozen=True, kw_only=True)
class CurveAxes(OptionGroup):
    """Pairs of classes and convex learners."""

    pairs: tuple[str, ...] = ("7-1",)
    """Pairs of classes, as 7-1 or bird-cat (the first is class 0), or all; none: all classes, for networks only."""
    models: Annotated[tuple[str, ...], MinLen(1)] = ("svm", "logistic", "ridge", "svm_rbf")
    """Convex learners (svm, svm_rbf, logistic, ridge; they use no GPU), or networks as in --model."""
    Cs: tuple[Positive, ...] = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
    """Axis of svm, logistic and ridge: weight of the losses against the penalty."""
    Cs_rbf: tuple[Positive, ...] = (0.1, 1.0, 10.0, 100.0)
    """Axis of svm_rbf."""
    gammas: tuple[Positive, ...] = (0.01, 0.1)
    """Axis of svm_rbf."""
    trigger_size: tuple[int, ...] = (2,)
    """Sides of the trigger in pixels; none: what --attacks say."""
    seed_values: tuple[int, ...] = ()
    """The seeds themselves; none: 0, 1, ... as many as --seeds."""
    train_images: Annotated[int, Ge(0)] = 0
    """Training images of a pair, the same for every seed; 0: all."""
    recipe: str = "raybd"
    """raybd, or published: images, poison, patches and solvers of arXiv 2106.07214, bit for bit (convex learners)."""
    compare: tuple[Path, ...] = ()
    """The authors' result files (CSV) to print differences to."""

    def problems(self) -> list[str]:
        """Those of every group, and what is wrong with pairs, learners and files."""
        found = super().problems() + unknown("recipe", [self.recipe], RECIPES)
        found += [f"--pairs {p!r} is no pair (allowed: all, 7-1, bird-cat)" for p in self.pairs if not _is_pair(p)]
        found += [f"{flag(axis)} needs at least one value" for axis in self._axes() if not getattr(self, axis)]
        convex = [name for name in self.models if name in LEARNERS]
        if convex and not self.pairs:
            found.append(f"{', '.join(convex)} tell two classes apart: --pairs needs at least one")
        if self.train_images and not self.pairs:
            found.append(f"--train-images {self.train_images} goes with --pairs")
        return found + [f"--compare {path}: there is no such file" for path in self.compare if not path.is_file()]

    def _axes(self) -> Iterator[str]:
        """The axes of the learners that are asked for."""
        if set(self.models) & (LEARNERS.keys() - {"svm_rbf"}):
            yield "Cs"
        if "svm_rbf" in self.models:
            yield from ("Cs_rbf", "gammas")


@dataclass(frozen=True, kw_only=True)
class CurveOptions(SweepOptions):
    """Options of `sweeps/learning_curves.py`: every pair x learner x C x gamma x rate x trigger size x seed.

    Rate 0, the clean twin, is always among the rates; a convex learner takes all --betas in one trial.
    """

    name: str = "learning_curves"
    curves: CurveAxes = field(default_factory=CurveAxes)
    attack: AttackOptions = field(
        default_factory=lambda: AttackOptions(
            attacks=("badnets:learning_curves",), labels="all_to_all", poison_rates=(0.0, 0.05, 0.1, 0.2)
        )
    )
    training: TrainingOptions = field(default_factory=lambda: TrainingOptions(betas=(0.0, 0.01, 0.03, 0.1, 0.3, 1.0)))
    execution: ExecutionOptions = field(default_factory=lambda: ExecutionOptions(gpus_per_trial=0.0))

    def problems(self) -> list[str]:
        """Those of every sweep, and options that would be dropped."""
        found = super().problems()
        if self.network.model != SweepOptions().network.model:
            found.append(f"--model {self.network.model}: this sweep has --models")
        learners, workers = [name for name in self.curves.models if name in LEARNERS], self.execution.workers
        if workers > 1:
            found += [f"model {name} is solved, not trained: {workers} workers cannot share it" for name in learners]
        if len(learners) < len(self.curves.models):
            return found
        given, usual = self.flat(), SweepOptions().flat()
        said = [name for name in NETWORK_OPTIONS if given[name] != usual[name]]
        return found + [f"{flag(name)} is for networks, and --models names none" for name in said]


def _is_pair(text: str) -> bool:
    return text == "all" or bool(PAIR.fullmatch(text))
