"""The trials of a search for a defence's settings: the cases of a candidate, and the comparison at the end."""

from collections.abc import Sequence
from dataclasses import replace

from raybd.attacks import describe
from raybd.attacks.multi import Multi
from raybd.command_line.dry_run import Upcoming
from raybd.command_line.grid import check, network_trials, share_twins, target_number
from raybd.command_line.search_goals import Judge
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
    rates = search.search_rates or options.attack.poison_rates
    asked = options.replace(defences=(search.base,), seeds=search.search_seeds, metrics=(), poison_rates=rates)
    cases = network_trials(asked)
    ordered = sorted((case for case in cases if case.poison_rate), key=lambda case: case.seed)
    return [_with_canary(options, case) for case in ordered] if search.objective == "canary" else ordered


def search_controls(judge: Judge, cases: Sequence[TrialConfig]) -> list[TrialConfig]:
    """The trials without a defence that the `cases` of every candidate are compared with, each once."""
    return list({one.key: one for one in map(judge.control, cases)}.values())


def preview_search(options: SearchOptions) -> list[Upcoming]:
    """What the search adds to `expand_comparison`, if no candidate is cut short and none wins that is there already."""
    cases, search = search_cases(options), options.search
    base = search.defence()
    cheap = replace(base, pretrain_epochs=1)  # of an encoder that another candidate has pretrained
    defences = [base if number < search.encoders else cheap for number in range(search.candidates)]
    tried = [replace(case, defence=defence) for defence in defences for case in cases]
    controls = search_controls(Judge(search.objective, 0.0, 0.0), cases)
    compared = [trial for trial in expand_comparison(options) if trial.defence == base]
    return [
        Upcoming("training without a defence, which candidates are compared with", controls),
        Upcoming(f"the search, {search.candidates} candidates on {len(cases)} cases each at most", tried),
        Upcoming("the winner, and of the best candidate with VIBE's own head, at most", compared, 2),
    ]


def _with_canary(options: SearchOptions, case: TrialConfig) -> TrialConfig:
    """`case` with the defender's own trigger in the training set too, with another target class than the attacker's."""
    rate = options.search.canary_rate
    target = target_number(options)
    targets = (target, 1 if target == 0 else 0)
    attacks = (describe(case.attack), CANARY)
    both = Multi(attacks=attacks, shares=(case.poison_rate, rate), targets=targets)
    return replace(case, attack=both, poison_rate=case.poison_rate + rate)
