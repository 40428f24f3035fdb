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
from raybd.metrics.smoothing.entropy import plug_in
from raybd.metrics.smoothing.network import refuse_training
from raybd.metrics.smoothing.numbers import FEWEST, Shown, numbers
from raybd.metrics.smoothing.plans import CLEAN, PLANS, TARGET_CLASS, TWIN, TWIN_CLEAN, VARIANTS, Plan
from raybd.metrics.smoothing.points import EvaluationPoints, evaluation_points, network, target_class, variants
from raybd.metrics.smoothing.votes import Tally, tally
from raybd.plugins import unknown
from raybd.seeds import forked_rng
from raybd.types import Data, MetricContext
from raybd.utils.constraints import Positive, violations

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Parts = dict[str, tuple[Tally, int, Tensor]]  # variant: where its votes are, and its (N,) distances from clean


@dataclass(frozen=True, kw_only=True)
class Smoothness(Metric):
    """W_sigma(x): entropy (nats) of the classes that a network gives x + N(0, sigma^2), noise in pixels of [0, 1].

    A network with noise of its own is measured with it.
    """

    plan: Literal["cheap", "standard", "exhaustive"] = "cheap"
    points: Annotated[int, Ge(FEWEST)] | None = None  # None: the plan's, or as many test images as the attack counts
    sigmas: tuple[Positive, ...] = ()  # in pixels of [0, 1]; (): the plan's
    draws: Annotated[int, Ge(2)] | None = None  # for every point and sigma, even; None: the plan's
    variants: tuple[str, ...] = ()  # besides clean; (): the plan's

    every_probe: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        # Of the instance: only some variants are worth training a second network for.
        object.__setattr__(self, "needs_twin", not unknown("plan", [self.plan], PLANS) and uses_twin(self.wanted))

    @property
    def wanted(self) -> Plan:
        """The plan with what the settings change of it."""
        plan = PLANS[self.plan]
        chosen = self.variants or plan.variants
        needed = (CLEAN, TWIN_CLEAN) if set(chosen) & set(TWIN) else (CLEAN,)
        return Plan(
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
        plan, counted = self.wanted, int(context.measured.sum())
        if counted < (self.points or FEWEST):
            least = self.points or FEWEST
            raise InputError(f"smoothness wants {least} points, but the attack counts {counted} test images")
        with forked_rng(context.seed, "smoothness", device=context.data.test.x.device):
            return measure(context, evaluation_points(context, plan.points), plan)

    def figures(self, history: History, arrays: Arrays, title: str) -> "dict[str, Figure]":
        """How W is spread over the points of each variant, at the largest sigma."""
        from raybd.metrics.smoothing.figures import draw_histograms  # only drawing needs matplotlib

        sigma = max(self.wanted.sigmas)
        end = f"/votes/sigma_{sigma:g}"
        points = {name.split("/")[1]: plug_in(votes.numpy()) for name, votes in arrays.items() if end in name}
        return {"smoothness": draw_histograms(points, f"{title}, sigma {sigma:g}")} if points else {}

    @property
    def fewest(self) -> int:
        """As many as points were asked for; a plan takes fewer where there are fewer."""
        return self.points or 0

    def problems(self, data: Data, noise: float) -> list[str]:
        """Unknown names, sigmas and draws that make no sense, more points than any target class leaves."""
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


def uses_twin(plan: Plan) -> bool:
    """Whether `plan` has a variant on the clean twin."""
    return bool(set(plan.variants) & set(TWIN))


def measure(context: MetricContext, at: EvaluationPoints, plan: Plan) -> dict[str, float | Tensor]:
    """Every number and every vote of `plan` on the scene `at`."""
    parts = _paired(at, plan)
    if TARGET_CLASS in plan.variants:
        parts |= _target_class(context, at, plan)
    wanted = at.wanted.cpu().numpy()
    found: dict[str, float | Tensor] = {"smoothness/points": torch.tensor(at.points)}
    for number, sigma in enumerate(plan.sigmas):
        shown = {name: _shown(*part, number) for name, part in parts.items()}
        found |= numbers(shown, wanted, sigma, len(plan.looks))
        for name, (counted, slot, _) in parts.items():
            found[f"smoothness/{name}/votes/sigma_{sigma:g}"] = counted.votes[slot, number]
            if len(plan.looks) > 1:
                found[f"smoothness/{name}/first_votes/sigma_{sigma:g}"] = counted.first[slot, number]
    return found


def _paired(at: EvaluationPoints, plan: Plan) -> Parts:
    """The variants of the same points, those of one network counted together: they share their noise."""
    made = variants(at, [name for name in plan.variants if name != TARGET_CLASS])
    parts: Parts = {}
    for twin in (False, True):
        names = [name for name in made if (name in TWIN) == twin]
        if names:
            parts |= _counted(network(at, names[0]), at, {name: made[name] for name in names}, plan)
    return {name: parts[name] for name in made}


def _counted(model: nn.Module, at: EvaluationPoints, made: dict[str, Tensor], plan: Plan) -> Parts:
    images = torch.stack(list(made.values()))
    counted = tally(model, images, at.points, plan.sigmas, plan.looks, at.seed, heartbeat=at.heartbeat)
    lengths = (images - at.clean).flatten(2).norm(dim=2).cpu()
    return {name: (counted, slot, lengths[slot]) for slot, name in enumerate(made)}


def _target_class(context: MetricContext, at: EvaluationPoints, plan: Plan) -> Parts:
    images, points = target_class(context, plan.points)
    if len(points) < FEWEST:
        return {}
    genuine = replace(at, clean=images, points=points)
    return _counted(at.model, genuine, {TARGET_CLASS: images}, plan)


def _shown(counted: Tally, slot: int, lengths: Tensor, sigma: int) -> Shown:
    votes, first, soft = (part[slot, sigma] for part in (counted.votes, counted.first, counted.soft))
    return Shown(
        votes=votes.long().numpy(),
        first=first.long().numpy(),
        soft=soft.double().numpy(),
        calm=counted.calm[slot].numpy(),
        lengths=lengths.double().numpy(),
    )
