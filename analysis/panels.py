"""The slices that show a whole map: a panel for each attack and value of a second complexity axis, and its facts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from analysis.cell_table import CellTable
from analysis.slices import MapSlice, map_slice
from analysis.values import Value, distinct, format_value


def panels(table: CellTable) -> list[list[MapSlice]]:
    """Slices with the poison rate as y; without a further axis x is the attack, in one panel."""
    attack, rate = table.names.short["attack.name"], table.names.short["poison_rate"]
    complexity = [name for name in table.axes if name not in (attack, rate)]
    if not complexity:
        return [[map_slice(table, attack, rate, {})]]
    columns: Sequence[Mapping[str, Value]] = [{}]
    if len(complexity) > 1:
        columns = [{complexity[1]: value} for value in table.axes[complexity[1]]]
    drawn = [c.setting for c in table.cells if c.setting["attack.name"] != "none"]
    drawn = drawn or [c.setting for c in table.cells]
    attacks, rates = distinct(s["attack.name"] for s in drawn), {s["poison_rate"] for s in drawn}
    return [
        [_keep_rows(map_slice(table, complexity[0], rate, {attack: a, **column}), rates) for column in columns]
        for a in attacks
    ]


def subtitle(table: CellTable, panel: MapSlice) -> list[str]:
    """What was trained and how much of it; what counts as defended; what was pooled."""
    trained = [format_value(v) for n in ("data", "model.name") for v in table.measured(n)]
    pooled = [n for n in table.axes if n not in (panel.x_name, panel.y_name, *panel.fixed)]
    return [
        f"{', '.join(trained)}: {_counts(table)}" if trained else _counts(table),
        _rule(table),
        *table.notes,
        *([f"pooled over {', '.join(pooled)}: defended where every value is"] if pooled else []),
    ]


def _keep_rows(panel: MapSlice, rates: set[Value]) -> MapSlice:
    """The rows at `rates`: clean twins that stand under attack none give no row to the attacks."""
    rows = [(y, row) for y, row in zip(panel.y, panel.verdicts, strict=True) if y in rates]
    return replace(panel, y=[y for y, _ in rows], verdicts=[row for _, row in rows])


def _counts(table: CellTable) -> str:
    numbers = sorted(len(cell.seeds) for cell in table.cells if cell.seeds)
    seeds = " to ".join(map(str, dict.fromkeys([numbers[0], numbers[-1]]))) if numbers else "0"
    failures = sum(cell.failures for cell in table.cells)
    return f"{sum(numbers)} trials, {seeds} seeds a cell" + (f"; {failures} more failed" if failures else "")


def _rule(table: CellTable) -> str:
    rule = table.rule
    floors = [accuracy - rule.max_accuracy_loss for accuracy in table.reference.values()]
    loss = f"{100 * rule.max_accuracy_loss:g} points under the best clean twins"
    floor = f"≥ {floors[0]:.1%} ({loss})" if len(floors) == 1 else f"at most {loss}"
    excess = f"attack success (ASR) ≤ {100 * rule.max_attack_success:g} points over the clean twins'"
    sure = f"a verdict needs a probability of {100 * rule.min_probability:g}%"
    return f"defended: {excess}, clean accuracy (ACC) {floor}; {sure}"
