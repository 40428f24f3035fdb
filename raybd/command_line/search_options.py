"""Options of `sweeps/vibe.py`: the search for a defence's settings beside those of every sweep."""

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Interval

from raybd.attacks import ATTACKS
from raybd.command_line.groups import AttackOptions, DataOptions, OptionGroup, TrainingOptions, unknown_methods
from raybd.command_line.options import SweepOptions
from raybd.command_line.search_goals import OBJECTIVES
from raybd.defences import DEFENCES
from raybd.defences.vibe import Vibe
from raybd.execution.search import DATABASE, PRUNERS, SAMPLERS
from raybd.plugins import parse, split, unknown
from raybd.trials.records import SweepFolder
from raybd.utils.constraints import Count, Share


@dataclass(frozen=True, kw_only=True)
class SearchSettings(OptionGroup):
    """The search."""

    held_out: tuple[str, ...] = ("sig", "ftrojan", "low_frequency")
    """Attacks that the search never sees (it sees those of --attacks); the winner meets them at the end."""
    base: str = "vibe"
    """The defence that is searched, with fixed settings; its winner and default are compared with --defences."""
    candidates: Count = 16
    """How many settings are tried."""
    search_seeds: Count = 1
    """Seeds on which a candidate is tried; the comparison has --seeds."""
    search_rates: tuple[Share, ...] = ()
    """Poison rates at which a candidate is tried; none: those of --poison-rates."""
    encoders: Count = 3
    """How many settings of the encoder are tried, each pretrained once for all candidates that have it."""
    objective: str = "truth"
    """truth: accuracy and the worst attack's success, on the images set aside; canary: what a defender can see who
    knows no attack."""
    canary_rate: Annotated[float, Interval(gt=0, lt=0.5)] = 0.01
    """Share of the training set that a defender gives the canary, a trigger and target of his own."""
    sampler: str = "tpe"
    """tpe, nsga2 or random."""
    pruner: str = "worst_case"
    """worst_case: a candidate ends at the first case that is 40 points beyond what is allowed; or none."""
    storage: str | None = None
    """Database of the study, as an URL; none: a file in the sweep's folder. optuna-dashboard opens it."""

    def problems(self) -> list[str]:
        """Those of every group, and names that are not known."""
        found = super().problems() + unknown_methods("held-out attack", self.held_out, ATTACKS)
        found += unknown_methods("defence", (self.base,), DEFENCES)
        if split("defence", DEFENCES, self.base)[0] in set(DEFENCES) - {"vibe"}:
            found.append(f"--base must be vibe, with settings or without: its settings are searched, not {self.base}'s")
        found += unknown("sampler", [self.sampler], SAMPLERS) + unknown("pruner", [self.pruner], PRUNERS)
        return found + unknown("objective", [self.objective], OBJECTIVES)

    def defence(self) -> Vibe:
        """The defence that is searched."""
        found = parse("defence", DEFENCES, self.base)
        assert isinstance(found, Vibe)  # `problems` refuses others
        return found


@dataclass(frozen=True, kw_only=True)
class SearchOptions(SweepOptions):
    """Options of `sweeps/vibe.py`: what is searched, on which attacks, and what the winner is compared with."""

    name: str = "vibe"
    dataset: DataOptions = field(default_factory=lambda: DataOptions(validation=0.15))
    search: SearchSettings = field(default_factory=SearchSettings)
    attack: AttackOptions = field(
        default_factory=lambda: AttackOptions(attacks=("badnets", "blended", "wanet", "adaptive_blend"))
    )
    training: TrainingOptions = field(default_factory=lambda: TrainingOptions(defences=("none", "oracle")))

    def problems(self) -> list[str]:
        """Those of every sweep, and what the search needs of them."""
        found = super().problems()
        if not any(self.attack.poison_rates):
            found.append("--poison-rates must have one above 0: what holds without poison is known")
        if self.search.search_rates and not any(self.search.search_rates):
            found.append("--search-rates must have one above 0")
        if not self.dataset.validation:
            found.append("the search judges by images that are set aside: --validation must be above 0")
        both = sorted(set(self.attack.attacks) & set(self.search.held_out))
        return found + [f"attack {name} is held out and seen at once" for name in both]

    def database(self) -> str:
        """The URL of the study's database."""
        folder = SweepFolder.of(self.execution.results, self.name).path
        return self.search.storage or f"sqlite:///{folder / DATABASE}"
