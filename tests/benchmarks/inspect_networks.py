"""How many backdoored and clean networks `raybd inspect` tells right; networks and figures are kept and resumed."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from raybd.attacks import NoAttack, parse
from raybd.data import augmentation, load
from raybd.inspection.figures import JUDGED, Measures, figures
from raybd.inspection.references import clean_figures
from raybd.inspection.verdict import judge, rank_p
from raybd.training import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.run import run_trial
from raybd.types import Data
from raybd.utils.cache import compute_once
from raybd.utils.files import write_text

SETS = {"digits": 1.0, "fashion_mnist[0,1,2,3,4,5,6,7,8,9;2000]": 0.5}  # data: width of small_cnn
REFERENCES = 9
FIRST_SEED = 100  # of the networks that are inspected
KINDS = {  # what is inspected: attack, poison rate, how many, what else differs from the references' training
    "badnets": ("badnets", 0.05, 5, {}),
    "blended": ("blended", 0.05, 5, {}),
    "clean": ("none", 0.0, 10, {}),
    "clean, trained otherwise": ("none", 0.0, 5, {"weight_decay": 5e-3, "epochs": 10}),
}


def inspected(name: str, width: float, folder: Path) -> Iterator[tuple[str, dict[str, float], list[dict[str, float]]]]:
    """Kind, figures and those of the clean networks, for every network that is inspected on the data set `name`."""
    data, model = load(name), ModelConfig(width=width)
    crop, flip = augmentation(name)
    train = TrainConfig(crop=crop, flip=flip)
    clean = clean_figures(data, model, train, Measures(), NoAttack(), range(REFERENCES), folder)
    for kind, (attack, rate, count, changes) in KINDS.items():
        for seed in range(FIRST_SEED, FIRST_SEED + count):
            config = TrialConfig(
                data=name, attack=parse(attack), poison_rate=rate, model=model, train=replace(train, **changes)
            )
            yield kind, _figures(replace(config, seed=seed), data, folder), clean


def _figures(config: TrialConfig, data: Data, folder: Path) -> dict[str, float]:
    def measured() -> dict[str, float]:
        result = run_trial(replace(config, probes=(config.train.epochs,)), data)
        network: nn.Module = result.model
        own = figures(network.eval(), data, Measures(), NoAttack())
        return own | {"true_attack_success": result.metrics["attack_success"]}

    return compute_once(
        folder / "inspected" / f"{replace(config, fingerprint=data.fingerprint).key}.json",
        measured,
        load=lambda path: {str(k): float(v) for k, v in json.loads(path.read_text()).items()},
        save=lambda value, path: write_text(path, json.dumps(value)),
    )


def inspect_networks() -> str:
    """The table of the documentation, and of each figure alone how often it is beyond all clean networks."""
    torch.set_num_threads(1)
    folder = Path(os.environ.get("RAYBD_CACHE", "~/.cache/raybd")).expanduser()
    lines = [
        "| data | networks | attack success | called suspicious | rank p, median |"
        + "".join(f" {n} |" for n in JUDGED),
        "| --- | --- | --- | --- | --- |" + " --- |" * len(JUDGED),
    ]
    for name, width in SETS.items():
        found = list(inspected(name, width, folder))
        for kind in KINDS:
            mine = [(own, clean) for one, own, clean in found if one == kind]
            lines.append(_row(name, kind, mine))
            print(lines[-1], flush=True)
    return "\n".join(lines)


def _row(name: str, kind: str, mine: list[tuple[dict[str, float], list[dict[str, float]]]]) -> str:
    verdicts = [judge(own, clean) for own, clean in mine]
    success = [own["true_attack_success"] for own, _ in mine]
    suspicious = sum(verdict.status == "suspicious" for verdict in verdicts)
    ranks = sorted(verdict.p for verdict in verdicts if verdict.p is not None)
    alone = [
        sum(
            rank_p(own[n], [c[n] for c in clean if n in c], side) <= 1 / (1 + len(clean))
            for own, clean in mine
            if n in own
        )
        for n, side in JUDGED.items()
    ]
    spread = f"{min(success):.2f} to {max(success):.2f}"
    cells = [name, kind, spread, f"{suspicious} of {len(mine)}", f"{ranks[len(ranks) // 2]:.2f}" if ranks else "-"]
    return f"| {' | '.join([*cells, *map(str, alone)])} |"
