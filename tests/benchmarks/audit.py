"""What an audit finds of images that were planted, and how often it finds something where nothing was.

`python -m tests.benchmarks audit --data-root PATH` audits subsets of 2,000 Fashion-MNIST images, a set for each seed,
and prints a table; with `--out FILE` a run that is stopped goes on where it was.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from raybd.attacks import ATTACKS
from raybd.attacks.poisoning import PoisonSpec
from raybd.auditing import audit
from raybd.data import load
from raybd.data.image_names import NamedImages
from raybd.types import POISON, Data

IMAGES = 2000
GOALS = {("badnets", 200): 0.95, ("badnets", 40): 0.8, ("badnets", 10): 0.5}  # share within the first 1.5 n
CLEAN_SEEDS, SEEDS, OTHER_SEEDS = 10, 5, 3  # from 0; sets for development were of seeds from 100 on
OTHERS = (("blended", 200), ("blended", 40), ("sig", 100))


@dataclass(frozen=True)
class Audited:
    """One audit: what was planted and what was found."""

    attack: str
    count: int
    seed: int
    among_first: float  # share of the planted within the first 1.5 n suspicions; -1 where nothing was planted
    auroc: float  # likewise
    classes_found: int
    right: int  # images called planted that were
    wrong: int
    seconds: float  # of one core's time


def cases() -> Iterator[tuple[str, int, int]]:
    """Attack, planted images and seed of each audit, in the order in which seeds are added."""
    for seed in range(CLEAN_SEEDS):
        yield "none", 0, seed
        for (attack, count), most in [*((goal, SEEDS) for goal in GOALS), *((other, OTHER_SEEDS) for other in OTHERS)]:
            if seed < most:
                yield attack, count, seed


def suspected(data: Data, attack: str, count: int, seed: int) -> tuple[NamedImages, list[int]]:
    """2,000 images of `seed` with `count` planted, and which these are; the target is the seed's last digit."""
    index = np.sort(np.random.default_rng(seed).permutation(len(data.train))[:IMAGES])
    images, planted = data.train.take(torch.from_numpy(index)), list[int]()
    if count:
        chosen = ATTACKS[attack](target=seed % len(data.classes))
        made = PoisonSpec(chosen, count / IMAGES, seed).poison(images, len(data.classes))
        images, planted = made.images, (made.roles == POISON).nonzero()[:, 0].tolist()
    names = tuple(str(i) for i in range(IMAGES))
    return NamedImages(images, names, data.classes, f"{attack} {count} {seed}"), planted


def audited(data: Data, attack: str, count: int, seed: int) -> Audited:
    """One audit of `seed`'s set."""
    named, planted = suspected(data, attack, count, seed)
    start = time.process_time()
    found = audit(named, truth=planted or None, seed=seed)
    spent = time.process_time() - start
    right = int(found.found[planted].sum()) if planted else 0
    first, auroc = (found.truth.get(name, -1.0) for name in ("among_first", "auroc"))
    groups = len(found.verdict.planted)
    return Audited(attack, count, seed, first, auroc, groups, right, int(found.found.sum()) - right, spent)


def table(rows: list[Audited]) -> str:
    """Markdown: a row for each attack and count."""
    lines = [
        "| planted | seeds | within the first 1.5 n, % by seed | goal | AUROC | said to be planted: right, wrong | s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for attack, count in dict.fromkeys((row.attack, row.count) for row in rows):
        some = [row for row in rows if (row.attack, row.count) == (attack, count)]
        lines.append(f"| {' | '.join(_columns(attack, count, some))} |")
    return "\n".join(lines)


def _columns(attack: str, count: int, rows: list[Audited]) -> list[str]:
    seeds = f"{rows[0].seed} to {rows[-1].seed}"
    said = ", ".join(f"{row.right}+{row.wrong}" for row in rows)
    spent = f"{np.mean([row.seconds for row in rows]):.0f}"
    if not count:
        quiet = sum(not row.classes_found for row in rows)
        return ["nothing", seeds, f"nothing found in {quiet} of {len(rows)}", "9 of 10", "-", said, spent]
    first = ", ".join(f"{100 * row.among_first:.0f}" for row in rows)
    goal = f"{100 * GOALS[attack, count]:.0f}" if (attack, count) in GOALS else "-"
    area = f"{np.mean([row.auroc for row in rows]):.3f}"
    return [f"{attack}, {count}", seeds, first, goal, area, said, spent]


def main(args: list[str] | None = None) -> None:
    """Audit what is left to audit and print the table."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks audit", description=__doc__)
    parser.add_argument("--data", default="fashion_mnist", help="a data set as sweeps name it")
    parser.add_argument("--data-root", help="folder with the data sets")
    parser.add_argument("--out", type=Path, help="one JSON line an audit; those in it are not run again")
    asked = parser.parse_args(args)
    known = asked.out.read_text().splitlines() if asked.out and asked.out.exists() else []
    rows = [Audited(**json.loads(line)) for line in known]
    data, done = load(asked.data, asked.data_root), {(row.attack, row.count, row.seed) for row in rows}
    for case in cases():
        if case not in done:
            rows.append(audited(data, *case))
            print(rows[-1], flush=True)
            if asked.out:
                with asked.out.open("a") as file:
                    file.write(json.dumps(asdict(rows[-1])) + "\n")
    print(f"\n{table(rows)}")
