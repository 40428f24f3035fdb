"""Findings: what a sweep showed, in at most eight sentences, each with its numbers and 90 % intervals."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.cells import Cell
from analysis.findings.defences import defence_sentence
from analysis.findings.keep_out import keep_out_sentence
from analysis.findings.missing import missing_sentence
from analysis.findings.signatures import signature_sentences
from analysis.findings.where import attack_sentence
from analysis.findings.wording import counted, data_words, joined, listed
from analysis.region_map import DefendedRegionMap
from analysis.runs import run_verdicts
from analysis.signatures import Judge
from analysis.verdict import STATUSES

MOST = 8  # sentences
WORDS = {"kept_out": "kept out at a loss of accuracy", "uncertain": "undecided", "unmeasured": "without a result"}


def findings(region_map: DefendedRegionMap, runs: pd.DataFrame | None = None, judge: Judge | None = None) -> list[str]:
    """What the trials of a map showed: at most eight sentences, the most important first.

    How many settings are defended; where each attack takes hold; what setting keeps it out, and at what cost; whether
    defences did; what information, smoothing and stealthiness showed beside their nulls; what could not be told, and
    what would tell it. What was not measured has no sentence.

    Args:
        region_map: of the sweep.
        runs: the same trials as `raybd.tracking.load_runs(..., all_metrics=True)` gives them; None: nothing is said of
            information, smoothing and stealthiness.
        judge: `raybd.metrics.smoothing.conclusion.judge_smoothing`; None: nothing is said of smoothing.
    """
    poisoned = [cell for cell in region_map.cells if cell.poisoned]
    if not poisoned:
        return [_without_poison(region_map)]
    signatures = [] if runs is None else signature_sentences(runs, run_verdicts(region_map), judge)
    table = region_map.table
    sentences = [_overview(region_map, poisoned), attack_sentence(table), keep_out_sentence(table)]
    sentences += [defence_sentence(table), *signatures, missing_sentence(table)]
    return [sentence for sentence in sentences if sentence][:MOST]


def _overview(region_map: DefendedRegionMap, poisoned: Sequence[Cell]) -> str:
    counts = Counter(cell.verdict.status for cell in poisoned)
    found = [status for status in STATUSES if counts[status]]
    parts = [
        f"{counts[status]}{_verb(counts[status]) * (status == found[0])} {WORDS.get(status, status)}"
        for status in found
    ]
    sure = f"a verdict needs a probability of at least {region_map.rule.min_probability:.0%}"
    return f"Of {counted(len(poisoned), 'setting')} with poison, {joined(parts)} ({sure}){_clean(region_map)}."


def _verb(number: int) -> str:
    return " is" if number == 1 else " are"


def _clean(region_map: DefendedRegionMap) -> str:
    reached = _best_clean(region_map)
    return f"; without poison, clean accuracy reaches {reached}" if reached else ""


def _best_clean(region_map: DefendedRegionMap) -> str:
    """The accuracy of the best clean training of each data set, with its interval; "" if there is none."""
    best: dict[str, Cell] = {}
    for cell in sorted(region_map.cells, key=lambda cell: float(np.mean(cell.clean_accuracy)) if cell.seeds else 0.0):
        if not cell.poisoned and cell.seeds:
            best[data_words(region_map.table, cell)] = cell
    return listed([f"{cell.verdict.clean_accuracy}{data}" for data, cell in sorted(best.items())])


def _without_poison(region_map: DefendedRegionMap) -> str:
    best = _best_clean(region_map)
    reached = f"clean accuracy reaches {best}" if best else "no trial has finished"
    return f"No setting with poison was measured, so nothing is told of a backdoor; {reached}."
