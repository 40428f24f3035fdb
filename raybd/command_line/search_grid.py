"""The trials of a search for a defence's settings: the cases of a candidate, and the comparison at the end."""

from dataclasses import replace

from raybd.attacks import describe
from raybd.attacks.multi import Multi
from raybd.command_line.grid import check, network_trials, share_twins
from raybd.command_line.search_options import SearchOptions
from raybd.trials.config import TrialConfig

CANARY = "badnets:position=top_left,pattern=random"  # the defender's own trigger


def expand_comparison(options: SearchOptions) -> list[TrialConfig]:
    """The comparison's trials without the winner: every defence, and the searched one's default, against every attack.

    Raises:
        InputError: with everything wrong with the options.
    """
    check(options)
    attacks = (*options.attack.attacks, *options.search.held_out)
    defences = (*options.training.defences, options.search.base)
    return share_twins(network_trials(options.replace(attacks=attacks, defences=defences)))


def search_cases(options: SearchOptions) -> list[TrialConfig]:
    """The cases of a candidate: every training attack at every rate, seed by seed."""
    search = options.search
    cases = network_trials(options.replace(defences=(search.base,), seeds=search.search_seeds, metrics=()))
    ordered = sorted((case for case in cases if case.poison_rate), key=lambda case: case.seed)
    return [_with_canary(options, case) for case in ordered] if search.objective == "canary" else ordered


def _with_canary(options: SearchOptions, case: TrialConfig) -> TrialConfig:
    """`case` with the defender's own trigger in the training set too, with another target class than the attacker's."""
    rate = options.search.canary_rate
    targets = (options.attack.target, 1 if options.attack.target == 0 else 0)
    attacks = (describe(case.attack), CANARY)
    both = Multi(attacks=attacks, shares=(case.poison_rate, rate), targets=targets)
    return replace(case, attack=both, poison_rate=case.poison_rate + rate)
