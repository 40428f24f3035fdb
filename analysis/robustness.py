"""Robustness: against which attacks a setting is defended, what it costs, and where it fails, in three sentences."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.cell_table import CellTable
from analysis.cells import Cell, group_cells, mean_seconds
from analysis.records import Trials
from analysis.values import Value, format_value
from analysis.verdict import Estimate, Verdict

ATTACK, RATE, DEFENCE = "attack.name", "poison_rate", "defence.name"


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """What a setting of a defence is worth; threats are attacks, at each poison rate if there are several."""

    name: str  # of the defence, or of its settings
    settings: Mapping[str, Value]  # by short names, where they vary
    verdicts: Mapping[str, Verdict]  # of each threat that it was measured against
    held: Sequence[str]  # the threats under which the backdoor takes hold without a defence
    undefended: int  # how many threats were measured without a defence
    held_out: Sequence[str]  # the threats whose attacks had no say in the choice of the settings
    accuracy_loss: float  # under the reference, mean over threats; NaN if it is not known
    worst_loss: float
    seconds: float  # of a trial, mean; NaN if it is not known
    plain_seconds: float  # likewise without a defence

    @property
    def defended(self) -> list[str]:
        """The threats against which it is defended."""
        return [threat for threat, verdict in self.verdicts.items() if verdict.status == "defended"]

    @property
    def failed(self) -> dict[str, Verdict]:
        """The threats under which the backdoor takes hold or accuracy is lost, or no trial finished."""
        left = ("defended", "uncertain")
        return {threat: verdict for threat, verdict in self.verdicts.items() if verdict.status not in left}

    @property
    def undecided(self) -> dict[str, Verdict]:
        """The threats of which more seeds would have to tell."""
        return {threat: verdict for threat, verdict in self.verdicts.items() if verdict.status == "uncertain"}

    def __str__(self) -> str:
        return "\n".join([self.identity, self.cost, self.failures])

    @property
    def identity(self) -> str:
        """The sentence that says what the setting is, and against how many threats it is defended."""
        listed = ", ".join(
            f"{name}={format_value(value)}" for name, value in self.settings.items() if value is not None
        )
        what = f"{self.name} ({listed})" if listed else self.name
        return f"The most robust configuration is {what}: defended against {self.count(f' {self._noun}')}."

    def count(self, noun: str = "") -> str:
        """Against how many threats, each a `noun`, it is defended, beside those without a defence and those held out:
        "5 of 7; without a defence 7 of 7 take hold; held-out: 2 of 3"."""
        without = f"; without a defence {len(self.held)} of {self.undefended} take hold" if self.undefended else ""
        kept = len(set(self.held_out) & set(self.defended))
        apart = f"; held-out: {kept} of {len(self.held_out)}" if self.held_out else ""
        return f"{len(self.defended)} of {len(self.verdicts)}{noun}{without}{apart}"

    @property
    def cost(self) -> str:
        """The sentence that says what it costs."""
        if math.isnan(self.accuracy_loss):
            points = "an accuracy that nothing was measured to compare with"
        else:
            points = f"{_points(self.accuracy_loss)} of clean accuracy, {_points(self.worst_loss)} at worst"
        if math.isnan(self.seconds):
            return f"It costs {points}."
        beside = "" if math.isnan(self.plain_seconds) else f" instead of {self.plain_seconds:.1f}"
        return f"It costs {points}, and takes {self.seconds:.1f} seconds a training{beside}."

    @property
    def failures(self) -> str:
        """The sentence that names the threats against which it fails, those of which nothing is decided, and why."""
        parts = [f"{threat} ({_why(verdict)})" for threat, verdict in self.failed.items()]
        said = f"It fails against {', '.join(parts) or 'none of them'}"
        if not self.undecided:
            return f"{said}."
        parts = [f"{threat} ({_why(verdict)})" for threat, verdict in self.undecided.items()]
        return f"{said}; more seeds would have to tell of {', '.join(parts)}."

    @property
    def _noun(self) -> str:
        return "attacks" if not any("at" in threat.split() for threat in self.verdicts) else "attacks and poison rates"


def robustness(table: CellTable, cells: Sequence[Cell], name: str, settings: Mapping[str, Value]) -> Robustness:
    """The robustness of the setting, with its name and what varies of it, that has the poisoned `cells`."""
    by_threat = threats(table, cells)
    verdicts = {threat: table.pooled(group, {}) for threat, group in by_threat.items()}
    plain = threats(table, table.find_poisoned({DEFENCE: "none"}) if DEFENCE in table.names.short else [])
    before = {threat: table.pooled(group, {}) for threat, group in plain.items() if threat in by_threat}
    held_out = held_out_attacks(table.trials)
    losses = [v.accuracy_loss.value for v in verdicts.values() if not math.isnan(v.accuracy_loss.value)]
    return Robustness(
        name=name,
        settings=settings,
        verdicts=verdicts,
        held=[threat for threat, verdict in before.items() if verdict.status == "backdoored"],
        undefended=len(before),
        held_out=[threat for threat, group in by_threat.items() if group[0].setting[ATTACK] in held_out],
        accuracy_loss=sum(losses) / len(losses) if losses else math.nan,
        worst_loss=max(losses, default=math.nan),
        seconds=mean_seconds(cells),
        plain_seconds=mean_seconds([cell for threat in before for cell in plain[threat]]),
    )


def threats(table: CellTable, cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Poisoned `cells` by their attack, with its settings and the poison rate where the map has several."""
    own = [n for n in table.names.plugin_settings(ATTACK) if n in table.names.varying]
    names = [ATTACK, *own] + [RATE] * (len([r for r in table.measured(RATE) if r]) > 1)
    groups = group_cells(cells, names)
    return {_describe(dict(zip(names, values, strict=True)), table): group for values, group in groups.items()}


def held_out_attacks(trials: Trials) -> set[Value]:
    """The attacks of the trials that the column `held_out` marks: they had no say in what a search chose."""
    marked = trials.rows["held_out"].map(lambda mark: str(mark).lower() == "true")
    return {trials.value(ATTACK, int(row)) for row in np.flatnonzero(marked.to_numpy(bool))}


def _describe(setting: Mapping[str, Value], table: CellTable) -> str:
    own = [
        f"{table.names.short[n]}={format_value(v)}"
        for n, v in setting.items()
        if n not in (ATTACK, RATE) and v is not None
    ]
    attack = str(setting[ATTACK]) + (f" {' '.join(own)}" if own else "")
    return f"{attack} at {format_value(setting[RATE])}" if RATE in setting else attack


def _why(verdict: Verdict) -> str:
    if verdict.status == "backdoored":
        return f"the backdoor takes hold, {_points(verdict.attack_success_excess.value)} of attack success"
    if verdict.status == "kept_out":
        return f"kept out, but at {_points(verdict.accuracy_loss.value)} of accuracy"
    if verdict.status == "unmeasured":
        return "no trial finished"
    if verdict.seeds < 2:
        return "one seed"
    excess, raw = _range(verdict.attack_success_excess), _range(verdict.attack_success)
    success = f"{excess} points above the twins'" if verdict.above_twins else f"{raw} %, without a clean twin"
    return f"attack success {success}, accuracy {_range(verdict.accuracy_loss)} points lost"


def _points(share: float) -> str:
    return f"{100 * share + 0.0:.1f} points"


def _range(estimate: Estimate) -> str:
    _, low, high = estimate.in_points
    return f"{low} to {high}"
