"""Which settings of VIBE hold against every attack, those it has never seen too? A search, then a comparison.

python sweeps/vibe.py                                      digits, on this machine
python sweeps/vibe.py --objective canary --validation 0.1  judged as a defender can who knows no attack
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from analysis.defences import compare_defences, defence_figure, defence_table
from analysis.text_table import align_columns
from raybd.command_line.command import main
from raybd.command_line.runner import Run
from raybd.command_line.search_grid import expand_comparison, search_cases
from raybd.command_line.search_options import SearchOptions
from raybd.defences import DEFENCES, Defence
from raybd.execution.plan import SweepPlan
from raybd.execution.search import OptunaProposer, Search, candidates_left, open_study, quiet_optuna
from raybd.execution.search_report import winner, write_search_report
from raybd.plugins import parse, spec
from raybd.tracking import load_runs
from raybd.trials.config import TrialConfig
from raybd.trials.validate import prepare

MAX_ATTACK_SUCCESS = 0.1  # of a winner, as the map has it
GOALS = {
    "truth": {"clean_accuracy": "max", "worst_attack_success": "min"},
    "canary": {"agreement": "max", "worst_canary": "min"},
}
PRESETS = {
    "quick": SearchOptions.of(
        base="vibe:pretrain_epochs=40",
        poison_rates=(0.0, 0.09),
        seeds=3,
        weight_decays=(5e-4,),
        widths=(0.5,),
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
        candidates=200,
        weight_decays=(5e-4,),
        widths=(1.0,),
        epochs=(100,),
    ),
}
FIRST = {"variant": "A", "tuned": True, "tuned_rate": 3e-3, "prototype_rate": 1.0, "kappa": 10.0, "nu": 10.0}
FIRST |= {"e_steps": 10, "pseudolabels": "hard", "freeze_eta": False}


def space(trial: Any) -> dict[str, Any]:
    """VIBE's settings by an Optuna trial; learning rates depend on whether the backbone is trained along."""
    tuned = trial.suggest_categorical("tuned", [True, False])
    if tuned:
        rates = {"learning_rate": trial.suggest_float("tuned_rate", 1e-4, 3e-2, log=True)}
        rates["prototype_rate"] = trial.suggest_float("prototype_rate", 1.0, 30.0, log=True)
    else:
        rates = {"learning_rate": trial.suggest_float("frozen_rate", 1e-3, 1e-1, log=True)}
    return rates | {
        "tuned": tuned,
        "variant": trial.suggest_categorical("variant", ["A", "F", "F_unit"]),
        "kappa": trial.suggest_float("kappa", 3.0, 40.0, log=True),
        "nu": trial.suggest_float("nu", 1.0, 40.0, log=True),
        "e_steps": trial.suggest_int("e_steps", 1, 40, log=True),
        "pseudolabels": trial.suggest_categorical("pseudolabels", ["hard", "soft", "annealed"]),
        "freeze_eta": trial.suggest_categorical("freeze_eta", [False, True]),
    }


def evaluate(objective: str, cases: Sequence[TrialConfig], metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """A candidate's goals: means over all its cases, and of the attack that does best, by its mean over seeds.

    With `canary`, from what a defender has: labels of held-out images, and the success of his own trigger. The
    attacks' success is added all the same, for the report.
    """
    truth = {
        "clean_accuracy": _mean(one["accuracy/clean"] for one in metrics),
        "worst_attack_success": _worst(cases, [one["attack_success"] for one in metrics]),
    }
    if objective == "truth":
        return truth
    members = [case.attack.members() for case in cases]
    theirs = _worst(cases, [one[f"attack_success/{m[0].name}"] for m, one in zip(members, metrics, strict=False)])
    own = _worst(cases, [one[f"attack_success/{m[1].name}"] for m, one in zip(members, metrics, strict=False)])
    agreement = _mean(one["accuracy/validation"] for one in metrics)
    return truth | {"worst_attack_success": theirs, "agreement": agreement, "worst_canary": own}


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def _worst(cases: Sequence[TrialConfig], values: Sequence[float]) -> float:
    """The largest mean over seeds of `values`, one for each of the first cases."""
    groups: dict[str, list[float]] = {}
    for case, value in zip(cases, values, strict=False):
        groups.setdefault(replace(case, seed=0).key, []).append(value)
    return max(_mean(group) for group in groups.values())


def search(options: SearchOptions, plan: SweepPlan, run: Run) -> list[TrialConfig]:
    """Find the winner; its trials against every attack."""
    cases, data = prepare(search_cases(options), options.dataset.data_root, image_bytes=options.image_bytes)
    problem = Search(
        name=options.name,
        base=options.search.defence(),
        cases=cases,
        space=space,
        evaluate=partial(evaluate, options.search.objective),
        goals=GOALS[options.search.objective],
        first=FIRST,
        trials=options.search.candidates,
        storage=options.database(),
        sampler=options.search.sampler,
        pruner=options.search.pruner,
    )
    with quiet_optuna():
        study = open_study(problem)
        to_try = candidates_left(problem, study)
        print(f"search: {problem.trials - to_try} candidates have finished, {to_try} to run", flush=True)
        if to_try:
            run(replace(plan, data=data), OptunaProposer(problem, study))
        chosen = winner(study, MAX_ATTACK_SUCCESS)
        write_search_report(study, problem, chosen, plan.folder.path)
    best = problem.defence(chosen.user_attrs["settings"]) if chosen else problem.base
    compared = expand_comparison(options)
    trials = [replace(trial, defence=best) for trial in compared if trial.defence == problem.base]
    asked, _ = prepare([*compared, *trials], options.dataset.data_root, options.attack.every, options.image_bytes)
    _complete_report(options, best, [trial.key for trial in asked], plan.folder.path)
    return trials


def _complete_report(options: SearchOptions, best: Defence, keys: Sequence[str], folder: Path) -> None:
    """Add the defences of the comparison, the keys of its trials and the held-out attacks to search.json."""
    rivals = {text: parse("defence", DEFENCES, text) for text in options.training.defences}
    named = rivals | {"default": options.search.defence(), "winner": best}
    report = json.loads((folder / "search.json").read_text())
    report["defences"] = {name: spec(DEFENCES, defence) for name, defence in named.items()}
    report["trials"] = list(keys)
    report["held_out"] = [text.partition(":")[0] for text in options.search.held_out]
    (folder / "search.json").write_text(json.dumps(report, indent=1))


def summarise(name: str, tracking_uri: str, folder: Path) -> tuple[str, list[Path]]:
    """The Pareto front, the winner, and every defence against every attack."""
    report = json.loads((folder / "search.json").read_text())
    runs = load_runs(name, tracking_uri)
    asked = runs[runs["tags.raybd.key"].isin(report["trials"])]  # none of an earlier question under the same name
    table = compare_defences(asked, report["defences"])
    table.to_csv(folder / "defences.csv", index=False)
    defence_figure(table, report["held_out"]).savefig(folder / "defences.png")
    pictures = [folder / "defences.png", *sorted(folder.glob("pareto*.png")), *sorted(folder.glob("importances_*.png"))]
    text = f"Pareto front (^: the winner)\n{_front(report)}\n\nACC / ASR %, mean ± deviation over seeds\n"
    return text + defence_table(table, report["held_out"]), [folder / "defences.csv", folder / "search.json", *pictures]


def _front(report: Mapping[str, Any]) -> str:
    """The best candidates among those that ran on all cases, and how many did not."""
    lines = [["candidate", *report["goals"], "seconds", "settings"]]
    for one in report["candidates"]:
        if one["front"] or one["number"] == report["winner"]:
            mark = "^" if one["number"] == report["winner"] else ""
            settings = ", ".join(f"{name}={_short(value)}" for name, value in one["settings"].items())
            goals = [f"{one['values'][goal]:.4f}" for goal in report["goals"]]
            lines.append([f"{one['number']}{mark}", *goals, f"{one['seconds']:.0f}", settings])
    tried = report["candidates"]
    failed, cut = (sum(name in one for one in tried) for name in ("error", "cut_short"))
    ended = f"{len(tried)} candidates, {failed} failed, {cut} cut short and not compared"
    return align_columns(lines) + f"\n{ended}; the study: {report['storage']}"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main(PRESETS, summarise, search=search, expand=expand_comparison))
