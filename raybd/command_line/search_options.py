"""What a person can say to a search for a defence's settings."""

from dataclasses import dataclass, replace

from raybd.attacks import ATTACKS, NoAttack, describe
from raybd.attacks.multi import Multi
from raybd.command_line.options import SweepOptions
from raybd.defences import DEFENCES, Defence
from raybd.errors import InputError
from raybd.execution.search import PRUNERS, SAMPLERS
from raybd.plugins import parse, unknown
from raybd.trials.config import TrialConfig
from raybd.trials.records import SweepFolder

CANARY = "badnets:position=top_left,pattern=random"  # the defender's own trigger
OBJECTIVES = ("truth", "canary")


@dataclass(frozen=True, kw_only=True)
class SearchOptions(SweepOptions):
    """Options of `sweeps/vibe.py`: what is searched, on which attacks, and what the winner is compared with."""

    name: str = "vibe"
    attacks: tuple[str, ...] = ("badnets", "blended", "wanet", "adaptive_blend")
    """Training attacks: the search sees these."""
    held_out: tuple[str, ...] = ("sig", "ftrojan", "low_frequency")
    """Attacks that the search never sees; the winner meets them at the end."""
    base: str = "vibe"
    """The defence that is searched, with the settings that stay."""
    defences: tuple[str, ...] = ("none", "oracle")
    """What the winner and the default are compared with."""
    candidates: int = 16
    """How many settings are tried."""
    search_seeds: int = 2
    """Seeds on which a candidate is tried; the comparison has --seeds."""
    objective: str = "truth"
    """truth: clean accuracy and the worst attack's success; canary: what a defender can see who knows no attack."""
    canary_rate: float = 0.01
    """Share of the training set that a defender gives the canary, a trigger and target of his own."""
    sampler: str = "tpe"
    """tpe, nsga2 or random."""
    pruner: str = "worst_case"
    """worst_case: a candidate ends at the first attack that succeeds on half of the images; or none."""
    storage: str | None = None
    """Database of the study, as an URL; none: a file in the sweep's folder. optuna-dashboard opens it."""

    def problems(self) -> list[str]:
        """Those of every sweep, and of the search."""
        found = super().problems() + unknown("held-out attack", [t.partition(":")[0] for t in self.held_out], ATTACKS)
        found += unknown("defence", [self.base.partition(":")[0]], DEFENCES)
        found += unknown("sampler", [self.sampler], SAMPLERS) + unknown("pruner", [self.pruner], PRUNERS)
        found += unknown("objective", [self.objective], OBJECTIVES)
        for name in ("candidates", "search_seeds"):
            found += [] if getattr(self, name) >= 1 else [f"--{name.replace('_', '-')} must be at least 1"]
        if not 0 < self.canary_rate < 0.5:
            found.append(f"--canary-rate {self.canary_rate:g} is not in (0, 0.5)")
        if not any(self.poison_rates):
            found.append("--poison-rates must have one above 0: what holds without poison is known")
        if self.objective == "canary" and not self.validation:
            found.append("--objective canary counts agreement on held-out images: --validation must be above 0")
        seen = sorted(set(self.attacks) & set(self.held_out))
        return found + [f"attack {name} is held out and seen at once" for name in seen]

    def defence(self) -> Defence:
        """The defence that is searched."""
        return parse("defence", DEFENCES, self.base)

    def configs(self) -> list[TrialConfig]:
        """The comparison, but for the winner: every defence and the searched one's default against every attack."""
        if found := self.problems():
            raise InputError(found)
        attacks, defences = (*self.attacks, *self.held_out), (*self.defences, self.base)
        trials = SweepOptions.configs(replace(self, held_out=(), attacks=attacks, defences=defences))
        twins = {trial.key: replace(trial, attack=NoAttack()) for trial in trials if not trial.poison_rate}
        once = {trial.key: trial for trial in twins.values()}
        return [*once.values(), *(trial for trial in trials if trial.poison_rate)]

    def cases(self) -> list[TrialConfig]:
        """What a candidate is tried on: every training attack at every rate, one seed after the other."""
        some = replace(self, defences=(self.base,), seeds=self.search_seeds, metrics=())
        trials = [trial for trial in SweepOptions.configs(some) if trial.poison_rate]
        ordered = sorted(trials, key=lambda trial: trial.seed)
        return [self.with_canary(trial) for trial in ordered] if self.objective == "canary" else ordered

    def with_canary(self, trial: TrialConfig) -> TrialConfig:
        """`trial` with the defender's own trigger in the training set too, for a class beside the attacker's."""
        total = trial.poison_rate + self.canary_rate
        targets = (self.target, 1 if self.target == 0 else 0)
        shares = (trial.poison_rate, self.canary_rate)
        both = Multi(attacks=(describe(trial.attack), CANARY), shares=shares, targets=targets)
        return replace(trial, attack=both, poison_rate=total)

    def database(self) -> str:
        """The URL of the study's database."""
        return self.storage or f"sqlite:///{SweepFolder.of(self.results, self.name).path / 'optuna.db'}"
