"""Which settings of VIBE hold against every attack, those it has never seen too? A search, then a comparison.

python sweeps/vibe.py                                       digits, on this machine
python sweeps/vibe.py --objective canary                    judged as a defender can who knows no attack
python sweeps/vibe.py --preset study --data npz:PATH        images of one's own, and rival defences
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.decision import DecisionRule
from analysis.search_summary import summarise_search
from raybd.command_line.command import main
from raybd.command_line.runner import Run
from raybd.command_line.search_goals import Judge
from raybd.command_line.search_grid import expand_comparison, preview_search, search_cases, search_controls
from raybd.command_line.search_options import SearchOptions
from raybd.defences import DEFENCES, Defence
from raybd.defences.vibe import Vibe
from raybd.errors import InputError
from raybd.execution.plan import SweepPlan
from raybd.execution.search import Search, candidates_left, draw_encoders, open_study, quiet_optuna
from raybd.execution.search_proposer import OptunaProposer
from raybd.execution.search_report import add_to_report, winner, write_search_report
from raybd.plugins import parse, spec
from raybd.trials.config import TrialConfig
from raybd.trials.validate import prepare

RULE = DecisionRule()  # the map's
PRESETS = {
    "quick": SearchOptions.of(
        attacks=("badnets", "blended"),
        held_out=("wanet", "adaptive_blend", "low_frequency"),
        poison_rates=(0.0, 0.09),
        seeds=3,
        candidates=12,
        weight_decays=(5e-4,),
        widths=(0.5,),
    ),
    "study": SearchOptions.of(  # 5,000 grey images of 14 x 14 pixels take two busy cores an hour and a half
        preset="study",
        attacks=("badnets", "blended"),
        held_out=("wanet", "adaptive_blend"),
        defences=("none", "oracle", "abl", "dbd:pretrain_epochs=12", "spectral"),
        base="vibe:pretrain_epochs=12",
        poison_rates=(0.0, 0.01, 0.1),
        search_rates=(0.1,),
        seeds=3,
        candidates=24,
        encoders=4,
        weight_decays=(5e-4,),
        widths=(0.5,),
        epochs=(8,),
    ),
    "paper": SearchOptions.of(  # arXiv:2503.08829 on CIFAR-10; its features take 1000 epochs
        preset="paper",
        data="cifar10",
        model="resnet18",
        attacks=("badnets:vibe", "blended:alpha=0.1", "wanet:no_noise", "adaptive_blend"),
        held_out=("label_consistent", "ftrojan", "adaptive_patch"),
        base="vibe:ss_a,pretrain_epochs=1000,iterations=30000,e_steps=30,learning_rate=0.001",
        poison_rates=(0.0, 0.1),
        seeds=3,
        search_seeds=2,
        candidates=200,
        weight_decays=(5e-4,),
        widths=(1.0,),
        epochs=(100,),
    ),
}
# tried first: the base's own, and one whose views hide faint triggers
ENCODERS: tuple[dict[str, Any], ...] = ({}, {"view_noise": 0.3})
# settings that are parameters of the search by their own names
NAMES = ("deploy", "tuned", "variant", "kappa_unit", "prototype_rate", "sharpness", "outlier_filter", "e_steps")
NAMES += ("pseudolabels", "freeze_eta")
SHARP = {"kappa_unit": "absolute", "kappa": 40.0, "nu": 30.0, "tuned": False, "frozen_rate": 0.01}


def encoder_space(trial: Any) -> dict[str, Any]:
    """Settings of an encoder by an Optuna trial: how it is pretrained, and what its views leave alone."""
    return {
        "features": trial.suggest_categorical("features", ["simclr", "nnclr"]),
        "view_noise": trial.suggest_float("view_noise", 0.05, 0.5, log=True),
        "view_brightness": trial.suggest_float("view_brightness", 0.2, 0.8),
        "view_contrast": trial.suggest_float("view_contrast", 0.0, 0.8),
        "view_rotate": trial.suggest_float("view_rotate", 5.0, 25.0),
        "view_translate": trial.suggest_float("view_translate", 0.03, 0.15),
        "view_erase": trial.suggest_float("view_erase", 0.0, 0.5),
        "pretrain_temperature": trial.suggest_float("pretrain_temperature", 0.1, 0.7, log=True),
        "pretrain_projection": trial.suggest_categorical("pretrain_projection", [32, 64, 128]),
    }


def space(trial: Any) -> dict[str, Any]:
    """VIBE's other settings by an Optuna trial; ranges depend on what is deployed, trained along and measured in."""
    tuned = trial.suggest_categorical("tuned", [True, False])
    if tuned:
        rates = {"learning_rate": trial.suggest_float("tuned_rate", 1e-4, 3e-2, log=True)}
        rates["prototype_rate"] = trial.suggest_float("prototype_rate", 1.0, 30.0, log=True)
    else:
        rates = {"learning_rate": trial.suggest_float("frozen_rate", 1e-3, 1e-1, log=True)}
    unit = trial.suggest_categorical("kappa_unit", ["absolute", "relative"])
    end, low, high = ("", 3.0, 80.0) if unit == "absolute" else ("_relative", 1.0, 16.0)
    return rates | {
        "deploy": trial.suggest_categorical("deploy", ["head", "linear", "retrained"]),
        "tuned": tuned,
        "variant": trial.suggest_categorical("variant", ["A", "F", "F_unit"]),
        "kappa_unit": unit,
        "kappa": trial.suggest_float(f"kappa{end}", low, high, log=True),
        "nu": trial.suggest_float(f"nu{end}", low, high, log=True),
        "sharpness": trial.suggest_float("sharpness", 5.0, 100.0, log=True),
        "outlier_filter": trial.suggest_categorical("outlier_filter", ["off", "distance", "composition"]),
        "e_steps": trial.suggest_int("e_steps", 1, 40, log=True),
        "pseudolabels": trial.suggest_categorical("pseudolabels", ["hard", "soft", "annealed"]),
        "freeze_eta": trial.suggest_categorical("freeze_eta", [False, True]),
    }


def first_candidates(base: Vibe, encoders: int) -> list[dict[str, Any]]:
    """Parameters of the candidates that are tried first: of `base`, then each thing to deploy on frozen features under
    sharp heads, with the last of the known encoders."""
    own = {"encoder": 0, "tuned_rate": base.learning_rate, "frozen_rate": base.learning_rate}
    own |= {name: getattr(base, name) for name in NAMES} | {"kappa": base.kappa or 10.0, "nu": base.nu or 10.0}
    usual = own | SHARP | {"encoder": min(encoders, len(ENCODERS)) - 1}
    return [own, *(usual | {"deploy": deploy} for deploy in ("retrained", "head", "linear"))]


def search(options: SearchOptions, plan: SweepPlan, run: Run) -> list[TrialConfig]:
    """Find the winner; the trials of the winner, and of the best that deploys VIBE's own head, against every attack."""
    judge = Judge(options.search.objective, RULE.max_accuracy_loss, RULE.max_attack_success)
    cases, data = prepare(search_cases(options), options.dataset.data_root, image_bytes=options.image_bytes)
    base, number = options.search.defence(), options.search.encoders
    problem = Search(
        name=options.name,
        base=base,
        cases=cases,
        space=space,
        evaluate=judge,
        goals=judge.goals,
        limits=judge.limits,
        controls=search_controls(judge, cases),
        first=first_candidates(base, number),
        encoders=draw_encoders(encoder_space, ENCODERS, number),
        trials=options.search.candidates,
        storage=options.database(),
        sampler=options.search.sampler,
        pruner=options.search.pruner,
        data=data,
    )
    with quiet_optuna():
        chosen = _candidates(problem, replace(plan, data=data), run)
    return _comparison(options, {"default": base} | chosen, plan.folder.path)


def _candidates(problem: Search, plan: SweepPlan, run: Run) -> dict[str, Defence]:
    """Evaluate the candidates that are left; the winner, and the best of those with deploy=head, by their names.

    Raises:
        InputError: a training that they are compared with has failed.
    """
    study = open_study(problem)
    to_try = candidates_left(problem, study)
    print(f"search: {problem.trials - to_try} candidates have finished, {to_try} to run", flush=True)
    if to_try:
        proposer = OptunaProposer(problem, study)
        run(plan, proposer)
        if proposer.failed:
            raise InputError(f"no candidate can be judged, for what all are compared with failed: {proposer.failed}")
    chosen = {"winner": winner(study), "head": winner(study, lambda settings: _deploys_head(problem, settings))}
    found = {name: trial for name, trial in chosen.items() if trial is not None}
    write_search_report(study, problem, found, plan.folder.path)
    return {name: problem.defence(trial.user_attrs["settings"]) for name, trial in found.items()}


def _deploys_head(problem: Search, settings: Mapping[str, Any]) -> bool:
    return getattr(problem.defence(settings), "deploy", "") == "head"


def _comparison(options: SearchOptions, named: Mapping[str, Defence], folder: Path) -> list[TrialConfig]:
    """The trials of the `named` defences, once where two are the same; the names of all are added to search.json."""
    compared = expand_comparison(options)
    of_base = [trial for trial in compared if trial.defence == named["default"]]
    trials = [replace(trial, defence=one) for one in dict.fromkeys(named.values()) for trial in of_base]
    asked, _ = prepare([*compared, *trials], options.dataset.data_root, options.attack.every, options.image_bytes)
    defences = {text: parse("defence", DEFENCES, text) for text in options.training.defence_names} | dict(named)
    keys = {name: [trial.key for trial in asked if trial.defence == one] for name, one in defences.items()}
    settings = {name: spec(DEFENCES, one) for name, one in defences.items()}
    held_out = [text.partition(":")[0] for text in options.search.held_out]
    add_to_report(folder, settings=settings, keys=keys, named=list(named), held_out=held_out)
    return trials


if __name__ == "__main__":
    sys.exit(main(PRESETS, summarise_search, search=search, expand=expand_comparison, preview=preview_search))
