"""Backdoor smoothing (Grosse et al., arXiv 2006.06721): entropy of the votes around a point, with its controls.

The definition is ours where the paper's text was out of reach: entropy under Gaussian noise, parameters ours.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from raybd.errors import InputError
from raybd.metrics.base import Arrays, History, Metric
from raybd.metrics.smoothing.entropy import bias_bound, plug_in_entropy
from raybd.metrics.smoothing.evaluation_points import (
    EvaluationPoints,
    evaluation_points,
    network,
    target_class,
    variants,
)
from raybd.metrics.smoothing.network import refuse_training
from raybd.metrics.smoothing.sampling_plan import CLEAN, PLANS, TARGET_CLASS, TWIN, TWIN_CLEAN, VARIANTS, SamplingPlan
from raybd.metrics.smoothing.summary import MIN_POINTS, VariantVotes, vote_metrics
from raybd.metrics.smoothing.votes import VoteCounts, count_votes
from raybd.plugins import unknown
from raybd.seeds import forked_rng
from raybd.types import Data, MetricContext
from raybd.utils.constraints import Positive, violations

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Parts = dict[str, tuple[VoteCounts, int, Tensor]]  # variant: its votes, its row in them, its (N,) distances from clean


@dataclass(frozen=True, kw_only=True)
class Smoothness(Metric):
    """W_sigma(x): entropy (nats) of the classes that a network gives x + N(0, sigma^2), noise in pixels of [0, 1].

    A network with noise of its own is measured with it.
    """

    plan: Literal["cheap", "standard", "exhaustive"] = "cheap"
    points: Annotated[int, Ge(MIN_POINTS)] | None = None  # at most; None: the plan's
    sigmas: tuple[Positive, ...] = ()  # in pixels of [0, 1]; (): the plan's
    draws: Annotated[int, Ge(2)] | None = None  # a point and sigma, even; None: the plan's, more for many classes
    variants: tuple[str, ...] = ()  # besides clean; (): the plan's

    every_probe: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        # Of the instance: only some variants are worth training a second network for.
        needs_twin = self.plan in PLANS and not set(TWIN).isdisjoint(self.sampling_plan.variants)
        object.__setattr__(self, "needs_twin", needs_twin)

    @property
    def sampling_plan(self) -> SamplingPlan:
        """The plan of that name, with the settings that override it."""
        plan = PLANS[self.plan]
        chosen = self.variants or plan.variants
        needed = (CLEAN,) if set(TWIN).isdisjoint(chosen) else (CLEAN, TWIN_CLEAN)
        return SamplingPlan(
            points=plan.points if self.points is None else self.points,
            sigmas=self.sigmas or plan.sigmas,
            looks=plan.looks if self.draws is None else (self.draws,),
            variants=tuple(dict.fromkeys((*needed, *chosen))),
        )

    def measure(self, context: MetricContext) -> dict[str, float | Tensor]:
        """Numbers for every variant and sigma, and the votes they rest on.

        Raises:
            InputError: the network is in training mode, there are fewer images than points, or no twin.
        """
        refuse_training(context.model)
        plan, counted = self.sampling_plan, int(context.measured.sum())
        if counted < (self.points or MIN_POINTS):
            least = self.points or MIN_POINTS
            raise InputError(f"smoothness wants {least} points, but the attack counts {counted} test images")
        if self.draws is None:
            plan = plan.for_classes(len(context.data.classes))
        with forked_rng(context.seed, "smoothness", device=context.data.test.x.device):
            return measure_smoothness(context, evaluation_points(context, plan.points), plan)

    def figures(self, history: History, arrays: Arrays, title: str) -> "dict[str, Figure]":
        """How W is spread over the points of each variant, at the largest sigma."""
        from raybd.metrics.smoothing.figures import draw_histograms  # only drawing needs matplotlib

        sigma = max(self.sampling_plan.sigmas)
        end = f"/votes/sigma_{sigma:g}"
        points = {name.split("/")[1]: plug_in_entropy(votes.numpy()) for name, votes in arrays.items() if end in name}
        return {"smoothness": draw_histograms(points, f"{title}, sigma {sigma:g}")} if points else {}

    @property
    def min_triggered(self) -> int:
        """As many as points were asked for; a plan takes fewer where there are fewer."""
        return self.points or 0

    def problems(self, data: Data, noise: float) -> list[str]:
        """Unknown names, settings out of range, an odd number of draws, more points than any target class leaves."""
        if found := unknown("smoothness plan", [self.plan], PLANS):
            return found
        found = unknown("smoothness variant", self.variants, VARIANTS)
        found += violations(self, "smoothness: ")
        if self.draws is not None and self.draws % 2:
            found.append(f"smoothness: draws must be even (the estimator needs it), got {self.draws}")
        available = len(data.test) - int(torch.bincount(data.test.y).max())
        if self.points is not None and self.points > available:
            allowed = f"at most {available}, the test images outside the largest class"
            found.append(f"smoothness: points must be {allowed}, got {self.points}")
        return found


def measure_smoothness(
    context: MetricContext, points: EvaluationPoints, plan: SamplingPlan
) -> dict[str, float | Tensor]:
    """Every metric of `plan` on `points`, and the votes behind them."""
    parts = _count_pairs(points, plan)
    if TARGET_CLASS in plan.variants:
        parts |= _count_target_class(context, points, plan)
    wanted = points.wanted.cpu().numpy()
    found: dict[str, float | Tensor] = {"smoothness/points": torch.tensor(points.ids)}
    found["smoothness/draws"] = float(plan.looks[0])
    found["smoothness/bias_bound"] = bias_bound(plan.looks[0], len(context.data.classes))
    for number, sigma in enumerate(plan.sigmas):
        votes = {name: _variant_votes(*part, number) for name, part in parts.items()}
        found |= vote_metrics(votes, wanted, sigma, len(plan.looks))
        for name, (counted, slot, _) in parts.items():
            found[f"smoothness/{name}/votes/sigma_{sigma:g}"] = counted.votes[slot, number]
            if len(plan.looks) > 1:
                found[f"smoothness/{name}/first_votes/sigma_{sigma:g}"] = counted.first[slot, number]
    return found


def _count_pairs(points: EvaluationPoints, plan: SamplingPlan) -> Parts:
    """The variants of the same points, those of one network counted together: they share their noise."""
    made = variants(points, [name for name in plan.variants if name != TARGET_CLASS])
    parts: Parts = {}
    for twin in (False, True):
        names = [name for name in made if (name in TWIN) == twin]
        if names:
            parts |= _count(network(points, names[0]), points, {name: made[name] for name in names}, plan)
    return {name: parts[name] for name in made}


def _count(model: nn.Module, points: EvaluationPoints, made: dict[str, Tensor], plan: SamplingPlan) -> Parts:
    images = torch.stack(list(made.values()))
    counted = count_votes(model, images, points.ids, plan.sigmas, plan.looks, points.seed, heartbeat=points.heartbeat)
    lengths = (images - points.clean).flatten(2).norm(dim=2).cpu()
    return {name: (counted, slot, lengths[slot]) for slot, name in enumerate(made)}


def _count_target_class(context: MetricContext, points: EvaluationPoints, plan: SamplingPlan) -> Parts:
    images, ids = target_class(context, plan.points)
    if len(ids) < MIN_POINTS:
        return {}
    genuine = replace(points, clean=images, ids=ids)
    return _count(points.model, genuine, {TARGET_CLASS: images}, plan)


def _variant_votes(counted: VoteCounts, slot: int, lengths: Tensor, sigma: int) -> VariantVotes:
    votes, first, soft = (part[slot, sigma] for part in (counted.votes, counted.first, counted.soft))
    return VariantVotes(
        votes=votes.long().numpy(),
        first=first.long().numpy(),
        soft=soft.double().numpy(),
        noiseless=counted.noiseless[slot].numpy(),
        lengths=lengths.double().numpy(),
    )
