"""What the candidates of a search are judged by: means over seeds, on the images that are set aside."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from raybd.attacks import NoAttack
from raybd.defences import NoDefence
from raybd.trials.config import TrialConfig
from raybd.utils.metric_names import VALIDATION_ACCURACY, VALIDATION_SUCCESS

Metrics = Mapping[str, float]
LOSS, EXCESS, CANARY = "accuracy_loss", "attack_success_excess", "canary_success"
OBJECTIVES = {  # by objective: value -> direction
    "truth": {"accuracy": "max", EXCESS: "min"},
    "canary": {"agreement": "max", CANARY: "min"},
}


@dataclass(frozen=True)
class Judge:
    """The map's own rule on validation images: how far attack success exceeds that of the clean twins, and how far
    accuracy lies under theirs, means over seeds, at the worst attack and rate.

    With objective "canary" a candidate is judged by what a defender has who knows no attack: the success of a trigger
    of the defender's own, and how often held-out labels are met, against the same poisoned training without a defence.
    """

    objective: str
    max_accuracy_loss: float
    max_attack_success: float

    @property
    def goals(self) -> dict[str, str]:
        """The names of the goals: max or min."""
        return OBJECTIVES[self.objective]

    @property
    def limits(self) -> dict[str, float]:
        """The most of each value that a feasible candidate has."""
        success = EXCESS if self.objective == "truth" else CANARY
        return {LOSS: self.max_accuracy_loss, success: self.max_attack_success}

    def control(self, case: TrialConfig) -> TrialConfig:
        """The training without a defence that `case` is compared with: its clean twin, of the same attack's trigger."""
        contents = tuple(found for found in case.contents if not found[0].startswith("defence."))
        plain = replace(case, defence=NoDefence(), contents=contents)
        if self.objective == "canary":  # the defender has no training set without poison
            return plain
        return replace(plain, poison_rate=0.0, train=replace(case.train, beta=1.0, beta_mode="sample"))

    def __call__(
        self, cases: Sequence[TrialConfig], metrics: Sequence[Metrics], controls: Mapping[str, Metrics]
    ) -> dict[str, float]:
        """A candidate's goals and limited values over the `cases` that have ended, with their `metrics`."""
        plain = [controls[self.control(case).key] for case in cases]
        accuracies = [one[VALIDATION_ACCURACY] for one in metrics]
        loss = reference(cases, plain) - min(_cell_means(cases, accuracies))
        theirs = self._successes(cases, metrics, 0)
        if self.objective == "canary":
            own = max(_cell_means(cases, self._successes(cases, metrics, 1)))
            return {"agreement": fmean(accuracies), CANARY: own, LOSS: loss, EXCESS: max(_cell_means(cases, theirs))}
        before = self._successes(cases, plain, 0)
        excess = [one - other for one, other in zip(theirs, before, strict=True)]
        return {"accuracy": fmean(accuracies), EXCESS: max(_cell_means(cases, excess)), LOSS: loss}

    def _successes(self, cases: Sequence[TrialConfig], metrics: Sequence[Metrics], member: int) -> list[float]:
        """The success of each case's attack; of one of several that of the `member` alone."""
        names = [[part.name for part in case.attack.members()] for case in cases]
        ends = ["" if len(parts) == 1 else f"/{parts[member]}" for parts in names]
        return [one[f"{VALIDATION_SUCCESS}{end}"] for end, one in zip(ends, metrics, strict=True)]


def reference(cases: Sequence[TrialConfig], controls: Sequence[Metrics]) -> float:
    """The accuracy that the loss is measured from: of all trainings of the `cases` the best mean over seeds."""
    trainings = [replace(case, attack=NoAttack(), poison_rate=0.0) for case in cases]
    return max(_cell_means(trainings, [one[VALIDATION_ACCURACY] for one in controls]))


def _cell_means(cases: Sequence[TrialConfig], values: Iterable[float]) -> list[float]:
    """The mean over seeds of the `values` of each setting among the `cases`."""
    groups: dict[str, list[float]] = {}
    for case, value in zip(cases, values, strict=True):
        groups.setdefault(replace(case, seed=0).key, []).append(value)
    return [fmean(group) for group in groups.values()]
