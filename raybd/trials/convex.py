"""A trial of a convex learner: the same images, poison and verification as a network's, solved instead of trained.

With `recipe="published"` images, poison and patches are drawn, and models solved, as the authors of arXiv 2106.07214
did; their patches are floats, so there the images in bytes are for people to look at.
"""

import time
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from raybd.attacks import ATTACKS, BadNets
from raybd.attacks.poisoning import PoisonSpec, digest
from raybd.convex.class_pairs import ClassPair, backdoor_task, mnist_pair, pair_problems, poison_indices
from raybd.convex.legacy import LegacyAccuracies, fit_published, legacy_accuracies
from raybd.convex.module import ConvexModel, DecisionFunction, logits
from raybd.convex.task import Array, BinaryTask
from raybd.convex.triggers import Labels, random_patches, stamp_patches
from raybd.defences import NoDefence
from raybd.errors import InputError
from raybd.metrics import METRICS
from raybd.metrics.base import History
from raybd.pixels import is_streamed
from raybd.plugins import name_of
from raybd.training import TrainConfig
from raybd.trials.base import (
    TrialKind,
    TrialResult,
    TrialSession,
    measure,
    poisoned_sets,
    result_of,
    triggered_validation,
)
from raybd.trials.config import TrialConfig
from raybd.types import CLEAN, POISON, Data, Images, MetricContext, Poisoned, Report

if TYPE_CHECKING:  # slow to import, and only drawing needs it
    from matplotlib.figure import Figure

PUBLISHED = 1500  # training images of a published pair
FITS = 10  # of a learner for its curve, about: some betas, two slopes


class ConvexFit(TrialKind):
    """The fit of a convex learner, which has no epochs: one report."""

    overhead = 0.25

    def problems(self, config: TrialConfig) -> list[str]:
        """Settings that would change the key and nothing else; what a published recipe does not go with."""
        return _network_settings(config) + (_published_problems(config) if config.recipe == "published" else [])

    def data_problems(self, config: TrialConfig, data: Data) -> list[str]:
        """More classes than two, or a set that is streamed."""
        if is_streamed(data.train.x):
            name = config.model.name
            return [f"model {name} needs all images in memory, and {data.name} is streamed: raise --data-memory"]
        if len(data.classes) == 2:
            return []
        said = f"{data.name} has {len(data.classes)} (a pair is named as in digits[7,1])"
        return [f"model {config.model.name} tells two classes apart, and {said}"]

    def poison_problems(self, config: TrialConfig, data: Data) -> list[str]:
        """Why the images, the poison or the patches of `config` cannot be had from `data`."""
        if config.recipe == "published":
            return _published_misfits(config, data)
        return super().poison_problems(config, data)

    def run(self, config: TrialConfig, data: Data, session: TrialSession, start: float) -> TrialResult:
        """One report, of the learner as fitted."""
        context, metrics = fit(config, pose_problem(config, data))
        numbers, arrays = measure(config, replace(context, heartbeat=session.heartbeat))
        metrics = numbers | metrics | {"seconds/trial": time.perf_counter() - start}
        session.report(Report(1, metrics, network=context.model))
        return result_of(context, metrics, arrays)

    def cost_key(self, config: TrialConfig) -> tuple[object, ...]:
        """Data, learner and recipe."""
        return config.image_set, config.model.name, config.recipe

    def unit_seconds(self, config: TrialConfig, data: Data) -> float:
        """Seconds of one fit on the poisoned pair."""
        task = pose_problem(config, data).task
        start = time.perf_counter()
        config.model.learner().path(task, [1.0])
        return time.perf_counter() - start

    def units(self, config: TrialConfig, data: Data) -> float:
        """Fits: one, and those of the curve where there is poison."""
        return 1 + FITS * (config.poison_rate > 0)

    def figures(self, history: History, title: str) -> "dict[str, Figure]":
        """None: there is no training."""
        return {}


def _network_settings(config: TrialConfig) -> list[str]:
    name, usual = config.model.name, TrainConfig()
    wrong = [f.name for f in fields(TrainConfig) if getattr(config.train, f.name) != getattr(usual, f.name)]
    found = [f"model {name} is solved, not trained: leave train.{setting} alone" for setting in wrong]
    found += [f"model {name} has no epochs to probe"] * bool(config.probes)
    if not isinstance(config.defence, NoDefence):
        found.append(f"model {name} has no training that a defence could take over")
    if config.attack.controls_training():
        found.append(f"model {name} has no training that attack {name_of(ATTACKS, config.attack)} could control")
    metrics = [name_of(METRICS, metric) for metric in config.metrics]
    looking = [metric for metric in metrics if metric not in ("accuracy", "learning_curves")]
    return found + [f"metric {metric} measures networks, and {name} is none" for metric in looking]


def _published_problems(config: TrialConfig) -> list[str]:
    found = ["recipe published sets no validation images aside"] if config.validation else []
    patches = BadNets(size=getattr(config.attack, "size", None), pattern="per_class", labels="all_to_all")
    if config.attack == patches:
        return found
    return [*found, "recipe published has one trigger: badnets with pattern per_class, labels all_to_all, a size"]


@dataclass(frozen=True, eq=False)
class ConvexProblem:
    """A two-class problem with a backdoor: the images of a trial, and the points that a learner is given."""

    data: Data
    poisoned: Poisoned  # with its manifest
    triggered: Images
    measured: Tensor  # mask of the triggered images that attack success counts
    task: BinaryTask
    bare: BinaryTask  # without poison; the task itself where the recipe does not ask for it


_last: dict[tuple[object, ...], ConvexProblem] = {}


def pose_problem(config: TrialConfig, data: Data) -> ConvexProblem:
    """The problem of `config`; that of the trial before is kept, for its neighbours differ in the learner only.

    Raises:
        InputError: the recipe cannot have its images, poison or patches from `data`.
        PoisoningError: the poisoned set is not what was asked for.
    """
    key = (data.fingerprint, config.validation, config.attack, config.poison_rate, config.seed, config.recipe)
    if key not in _last:
        _last.clear()
        _last[key] = (_published if config.recipe == "published" else _own)(config, data.to("cpu"))
    return _last[key]


def fit(config: TrialConfig, problem: ConvexProblem) -> tuple[MetricContext, dict[str, float]]:
    """The fitted learner for metrics, and its losses (in its own unit) and accuracies beyond those of any trial."""
    learner, task = config.model.learner(), problem.task
    if config.recipe == "published":
        decision_function: DecisionFunction = fit_published(learner, task, 1.0).decision_function
        more = _published_numbers(legacy_accuracies(learner, problem.bare, task))
    else:
        path = learner.path(task, [1.0])

        def decision_function(x: Array) -> Array:
            return np.asarray(path.decision_function(x)[0])

        more = {"accuracy/train": float(((decision_function(task.train_x) > 0) == (task.train_sign > 0)).mean())}
    losses = {
        "loss/train": learner.loss(task.train_sign * decision_function(task.train_x)),
        "loss/clean": learner.loss(task.test_sign * decision_function(task.test_x)),
        "loss/triggered": learner.loss(task.triggered_sign * decision_function(task.triggered_x)),
    }
    model = ConvexModel(learner, task, decision_function).eval()
    metrics = more | {name: float(values.mean()) for name, values in losses.items()}
    return _metric_context(config, problem, model), metrics


def _published_numbers(found: LegacyAccuracies) -> dict[str, float]:
    return {"accuracy/clean_model": found.clean_model, "accuracy/train": found.training}


def _metric_context(config: TrialConfig, problem: ConvexProblem, model: ConvexModel) -> MetricContext:
    data, exact = problem.data, problem.task.triggered_x  # published patches are no bytes: the points say what they are
    stamped = exact if config.recipe == "published" else points(problem.triggered)
    held_out, triggered = data.validation, triggered_validation(config, data)
    return MetricContext(
        model=model,
        data=data,
        poisoned=problem.poisoned,
        triggered=problem.triggered,
        measured=problem.measured,
        clean_logits=logits(model.decision_function(points(data.test))),
        triggered_logits=logits(model.decision_function(stamped)),
        validation_logits=None if held_out is None else logits(model.decision_function(points(held_out))),
        triggered_validation=triggered,
        triggered_validation_logits=None if triggered is None else logits(model.decision_function(points(triggered))),
        members=tuple(member.name for member in config.attack.members()),
        seed=config.seed,
    )


def points(images: Images) -> Array:
    """(N, d) pixels in [0, 1]."""
    return images.x.flatten(1).numpy().astype(np.float64) / 255


def _signs(y: Tensor) -> Array:
    return np.where(y.numpy() == 1, 1.0, -1.0)


def _own(config: TrialConfig, data: Data) -> ConvexProblem:
    poisoned, triggered = poisoned_sets(config, data)
    measured = PoisonSpec(config.attack, config.poison_rate, config.seed).measured(data.test.y)
    aimed = triggered.take(measured)
    task = BinaryTask(
        train_x=points(poisoned.images),
        train_sign=_signs(poisoned.images.y),
        poisoned=(poisoned.roles == POISON).numpy(),
        test_x=points(data.test),
        test_sign=_signs(data.test.y),
        triggered_x=points(aimed),
        triggered_sign=_signs(aimed.y),
    )
    return ConvexProblem(data, poisoned, triggered, measured, task, task)


def _published_misfits(config: TrialConfig, data: Data) -> list[str]:
    """Colours, too few images of a class, a poison rate that draws none."""
    found = [] if data.train.shape[0] == 1 else [f"recipe published is for grey images, and {data.name} has colours"]
    found += pair_problems(data.train.y.numpy(), data.test.y.numpy(), (0, 1))
    try:
        poison_indices(PUBLISHED, config.poison_rate, config.seed)
    except InputError as error:
        found += error.problems
    return found


def _published(config: TrialConfig, data: Data) -> ConvexProblem:
    assert isinstance(config.attack, BadNets)
    pair, shape = _pair(data), data.train.shape
    patches = random_patches(config.seed, 2, shape[0], config.attack.side(shape))
    trigger = partial(stamp_patches, patches=patches)
    task, bare = (backdoor_task(pair, trigger, rate, config.seed) for rate in (config.poison_rate, 0.0))
    chosen = torch.from_numpy(task.poisoned)
    data = replace(data, train=_images(pair.train_x, pair.train_y), test=_images(pair.test_x, pair.test_y))
    poisoned = Poisoned(
        images=_images(task.train_x.reshape(pair.train_x.shape), (task.train_sign > 0).astype(np.int64)),
        roles=torch.where(chosen, POISON, CLEAN).to(torch.uint8),
        true=data.train.y,
        member=torch.zeros(len(chosen), dtype=torch.uint8),
        triggers=(digest(torch.from_numpy(patches)),),
        manifest={"poison": task.poison_count, "cover": 0, "clean": int((~task.poisoned).sum())},
    )
    triggered = _images(trigger(pair.test_x, pair.test_y), 1 - pair.test_y)
    return ConvexProblem(data, poisoned, triggered, torch.ones(len(triggered), dtype=torch.bool), task, bare)


def _pair(data: Data) -> ClassPair:
    train, test = ((half.x[:, 0].numpy(), half.y.numpy()) for half in (data.train, data.test))
    return mnist_pair(train, test, (0, 1))


def _images(x: Array, y: Labels) -> Images:
    return Images(torch.from_numpy(np.rint(255 * x).astype(np.uint8)), torch.from_numpy(y))
