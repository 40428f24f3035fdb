"""Backdoor learning curves (arXiv 2106.07214): over the poison's weight of convex learners, over epochs of networks."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raybd.convex.module import ConvexModel
from raybd.convex.record import curve_record
from raybd.metrics.base import Arrays, History, Metric
from raybd.types import Data, MetricContext
from raybd.utils.constraints import Share, violations
from raybd.utils.curves import crossing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARES = {"curve/epoch50": "attack_success", "curve/epoch50/clean": "accuracy/clean"}


@dataclass(frozen=True, kw_only=True)
class LearningCurves(Metric):
    """Of a convex learner the exact curve, slopes and path; of a network the epochs at which shares pass a half."""

    betas: tuple[Share, ...] = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)  # weights of the poison on a convex learner's curve

    every_probe = False

    def measure(self, context: MetricContext) -> dict[str, float | Tensor]:
        """The numbers of raybd/convex/record.py for a convex learner with poison; else nothing yet."""
        if not isinstance(context.model, ConvexModel) or not context.model.task.poison_count:
            return {}
        found = curve_record(context.model.learner, context.model.task, self.betas)
        return {**found.numbers, **{f"curve/{k}": torch.from_numpy(v) for k, v in found.arrays.items()}}

    def conclude(self, history: History) -> dict[str, float]:
        """Where attack success and clean accuracy first pass a half, straight between probes; absent if they do not."""
        lines = [line for line in history if "attack_success" in line["metrics"]]
        if len(lines) < 2:  # one probe is no curve: a convex learner has no epochs
            return {}
        epochs = [float(line["epoch"]) for line in lines]
        found = {k: crossing(epochs, [line["metrics"][name] for line in lines]) for k, name in SHARES.items()}
        return {name: epoch for name, epoch in found.items() if epoch < float("inf")}

    def figures(self, history: History, arrays: Arrays, title: str) -> "dict[str, Figure]":
        """A convex learner's losses and shares over beta; a network's epochs are in the picture of its training."""
        from raybd.metrics.learning_curve_figures import draw_learning_curve  # here, because matplotlib takes its time

        curve = {name.split("/")[1]: values.numpy() for name, values in arrays.items() if name.startswith("curve/")}
        return {"learning_curve": draw_learning_curve(curve, title)} if curve else {}

    def problems(self, data: Data, noise: float) -> list[str]:
        """Betas outside [0, 1], or none above 0."""
        found = violations(self, "learning_curves: ")
        if not any(beta > 0 for beta in self.betas):
            found.append("learning_curves: a curve needs a beta above 0")
        return found
